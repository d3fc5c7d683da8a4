"""Torch's OpenMP workers: run a function on each of the calling thread's, or let them go. Imports torch.

Torch offers no way to them, but the library that it was linked with has one: a parallel region of OpenMP, which
compilers write as a call of ``GOMP_parallel``. Each thread that calls torch has workers of its own.
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
"""``omp_pause_hard`` of OpenMP 5.0: everything that the runtime holds for the thread is given back."""


@functools.cache
def _openmp() -> Any:
    """Return the OpenMP runtime that torch itself uses, None where it cannot be called."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not sys.platform.startswith("linux"):
        return None
    try:
        found = ctypes.CDLL(str(library))  # loaded already; symbols of what it was linked with are found through it
        found.GOMP_parallel.argtypes = [_REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        found.GOMP_parallel.restype = None
        found.omp_get_thread_num.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return found


def can_reach_workers() -> bool:
    """Return whether :func:`on_workers` can run anything here."""
    return _openmp() is not None


def on_workers(function: Callable[[int], None]) -> bool:
    """Call ``function(number)`` on each OpenMP thread of the calling thread's team, itself being number 0.

    Returns whether that could be done. It takes some milliseconds: not for every call.

    Raises
    ------
    Exception
        What the function raised first, once all are done.
    """
    library = _openmp()
    if library is None:
        return False
    errors: list[Exception] = []

    def region(_: Any) -> None:
        try:
            function(library.omp_get_thread_num())
        except Exception as error:  # noqa: BLE001 - it must not leave a region of C code, and is raised below
            errors.append(error)

    library.GOMP_parallel(_REGION(region), None, torch.get_num_threads(), 0)
    if errors:
        raise errors[0]
    return True


def end_workers() -> bool:
    """End the workers of the calling thread, until its next parallel work; return whether that could be done.

    Workers wait for work by spinning, but only while all threads of all teams have a core: libgomp gives spinning up
    for everybody as soon as a second thread has a team of its own, and small models then take several times as long.
    """
    library = _openmp()
    pause = getattr(library, "omp_pause_resource_all", None)
    return pause is not None and pause(_PAUSE_HARD) == 0
