"""Claims on torch's process-wide threads: set before calls, restored with the last claim."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from workbench.engine.config import InferenceConfig
from workbench.engine.process.thread_options import can_flush, choose_pins, flushing, not_pinned, set_flushing

CANNOT_FLUSH = "flush_denormals=True has no effect: threads cannot flush denormals on this platform"
CALLER_ONLY = (
    "flush_denormals=True holds on the calling thread only: torch's workers cannot be reached on this platform"
)


class _WorkerState(NamedTuple):
    """State of a team's workers; ``generation`` counts resets, which the workers of other threads do not see."""

    threads: int
    flush: bool
    pins: tuple[int, ...]
    generation: int


_lock = threading.Lock()
_claims: set[ThreadClaim] = set()
_original: int | None = None
_generation = 0
_applied = threading.local()
"""``state``: the state of this thread's workers, absent or None for the default."""
_masks: dict[int, set[int]] = {}
"""CPU mask before pinning, by native id of a worker."""


class ThreadClaim:
    """One engine's claim on torch's thread count, denormal flushing and pinning.

    Each engine calls :meth:`apply` before it runs. The last release restores the state before the first claim. Workers
    belong to the thread that calls torch: those of other threads are unpinned on release, but flush until that thread
    runs a torch engine again.

    A ``with`` block around a call flushes denormals on the calling thread.
    """

    def __init__(self, threads: int, *, flush: bool = False, pins: tuple[int, ...] = ()) -> None:
        global _original
        self.threads = threads
        self.flush, self.pins = flush, pins
        self.notes: tuple[str, ...] = ()
        self._before = False
        with _lock:
            if not _claims:
                _original = torch.get_num_threads()
            _claims.add(self)
        self.apply()

    @classmethod
    def of(cls, config: InferenceConfig, threads: int) -> Self:
        """Return the claim of an engine, with notes on what this platform does not support."""
        pins, reach = choose_pins(config.pin_threads, threads), can_reach_workers()
        if pins.cpus and not reach:
            pins = not_pinned("torch's workers cannot be reached on this platform")
        flush = config.flush_denormals and can_flush()
        claim = cls(threads, flush=flush, pins=pins.cpus)
        if config.flush_denormals and not flush:
            claim.notes = (CANNOT_FLUSH,)
        elif flush and threads > 1 and not reach:
            claim.notes = (CALLER_ONLY,)
        claim.notes = (*claim.notes, *pins.notes)
        return claim

    def apply(self) -> None:
        """Set torch's thread count and the state of its workers."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        custom = self.flush or self.pins
        _set_workers(_WorkerState(self.threads, self.flush, self.pins, _generation) if custom else None)

    def __enter__(self) -> None:
        if self.flush:
            self._before = flushing()
            set_flushing(True)

    def __exit__(self, *_: object) -> None:
        if self.flush:
            set_flushing(self._before)

    def release(self) -> None:
        """Release the claim; may be called twice."""
        global _generation
        with _lock:
            if self not in _claims:
                return
            _claims.discard(self)
            if not _claims and _original is not None:
                _set_workers(None)
                _unpin_all()
                _generation += 1
                torch.set_num_threads(_original)


def release_workers() -> None:
    """End the calling thread's workers, because other threads will run torch: see :func:`end_workers`."""
    # Workers with a custom state stay, because new ones would lack it.
    if getattr(_applied, "state", None) is None:
        end_workers()


def _set_workers(state: _WorkerState | None) -> None:
    """Set the state of this thread's workers if it changed; new workers inherit the calling thread's."""
    if getattr(_applied, "state", None) == state:
        return
    _applied.state = state
    flush, pins = (state.flush, state.pins) if state else (False, ())

    def apply(number: int) -> None:
        if number > 0:
            set_flushing(flush)
            _pin(pins[number - 1] if pins else None)

    on_workers(apply)


def _pin(cpu: int | None) -> None:
    """Pin the calling thread; None restores its mask."""
    worker = threading.get_native_id()
    if cpu is not None:
        _masks.setdefault(worker, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
    elif worker in _masks:
        os.sched_setaffinity(0, _masks.pop(worker))


def _unpin_all() -> None:
    """Restore the masks of other threads' workers."""
    while _masks:
        worker, mask = _masks.popitem()
        with contextlib.suppress(OSError):  # the worker has ended
            os.sched_setaffinity(worker, mask)


_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PAUSE_HARD = 2
"""``omp_pause_hard`` of OpenMP 5.0 releases everything that the runtime holds for the thread."""


@functools.cache
def _openmp() -> Any:
    """Return torch's OpenMP library, None if it cannot be called.

    Torch has no API for its workers, which each calling thread has of its own. OpenMP runs a parallel region on them:
    compilers write one as a call of ``GOMP_parallel``.
    """
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
