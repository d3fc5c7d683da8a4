"""Run functions on torch's OpenMP workers, or end them. Imports torch.

Torch has no API for its workers. The OpenMP library that it links has one: a parallel region, which compilers write as
a call of ``GOMP_parallel``. Each thread that calls torch has workers of its own.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PAUSE_HARD = 2
"""``omp_pause_hard`` of OpenMP 5.0 releases everything that the runtime holds for the thread."""


@functools.cache
def _openmp() -> Any:
    """Return torch's OpenMP library, None if it cannot be called."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        # Loaded already; symbols of the libraries that it links are found through it.
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library.GOMP_parallel.argtypes = [_REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        library.omp_get_thread_num.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


def can_reach_workers() -> bool:
    """Return whether :func:`on_workers` works here."""
    return _openmp() is not None


def on_workers(function: Callable[[int], None]) -> bool:
    """Call ``function(number)`` on each OpenMP thread of the calling thread's team; the caller is number 0.

    Return whether that is possible. It takes some milliseconds: not for every call. The first error is raised at the
    end.
    """
    library = _openmp()
    if library is None:
        return False
    errors: list[Exception] = []

    def region(_: Any) -> None:
        try:
            function(library.omp_get_thread_num())
        except Exception as error:  # noqa: BLE001 - must not leave a region of C code; raised below
            errors.append(error)

    library.GOMP_parallel(_REGION(region), None, torch.get_num_threads(), 0)
    if errors:
        raise errors[0]
    return True


def end_workers() -> bool:
    """End the calling thread's workers until its next parallel work; return whether that is possible.

    Workers wait by spinning only while all threads of all teams have a core. As soon as a second thread has a team,
    libgomp stops spinning for all teams, and small models take several times as long.
    """
    pause = getattr(_openmp(), "omp_pause_resource_all", None)
    return pause is not None and pause(_PAUSE_HARD) == 0
