"""torch's threads are one set for the whole process: changed here only, and put back when nobody needs it any more."""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType
from typing import NamedTuple, Self

import torch

from workbench.engine.config import InferenceConfig
from workbench.engine.process.denormals import can_flush, flushing, set_flushing
from workbench.engine.process.openmp import can_reach_workers, end_workers, on_workers
from workbench.engine.process.pinning import choose_pins, not_pinned

CANNOT_FLUSH = "flush_denormals=True: threads cannot be told to flush denormals on this platform; they are computed"
CALLER_ONLY = (
    "flush_denormals=True holds on the thread that calls only: torch's workers cannot be reached on this platform"
)


class _Wish(NamedTuple):
    """What the workers of a team are to do; ``reign`` counts how often all was put back, since others forget then."""

    threads: int
    flush: bool
    pins: tuple[int, ...]
    reign: int


_lock = threading.Lock()
_claims: set[ThreadClaim] = set()
_original: int | None = None
_reign = 0
_told = threading.local()
"""``wish``: what this thread's workers were told, absent where they were told nothing."""
_masks: dict[int, set[int]] = {}
"""Where each pinned worker, by its number in the system, might run before."""


class ThreadClaim:
    """One engine's wish for a number of torch threads, whether they flush denormals, and where they are pinned.

    While several engines are open each calls :meth:`apply` before it runs. When the last one is released all is as it
    was before the first was made. Workers belong to the thread that calls torch: those of another thread than the one
    that releases are unpinned, and go on flushing until that thread runs a torch engine again, or ends.

    A ``with`` block around a call is for the thread that calls: outside of it, it computes as before.
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
        """Return the claim of an engine, with the notes on what of it this platform does not do."""
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
        """Set torch's thread count, and what its workers do, where it is another."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        _tell(_Wish(self.threads, self.flush, self.pins, _reign) if self.flush or self.pins else None)

    def __enter__(self) -> None:
        if self.flush:
            self._before = flushing()
            set_flushing(True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.flush:
            set_flushing(self._before)

    def release(self) -> None:
        """Give the claim up; may be called twice."""
        global _reign
        with _lock:
            if self not in _claims:
                return
            _claims.discard(self)
            if not _claims and _original is not None:
                _tell(None)
                _unpin_all()
                _reign += 1
                torch.set_num_threads(_original)


def release_workers() -> None:
    """End the calling thread's workers, since other threads are to run torch: see :func:`end_workers`.

    Those that were told something stay: they would have to be told again.
    """
    if getattr(_told, "wish", None) is None:
        end_workers()


def _tell(wish: _Wish | None) -> None:
    """Tell this thread's workers once; new ones, of a larger team, start as the thread that calls is."""
    if getattr(_told, "wish", None) == wish:
        return
    _told.wish = wish
    flush, pins = (wish.flush, wish.pins) if wish else (False, ())

    def tell(number: int) -> None:
        if number > 0:
            set_flushing(flush)
            _pin(pins[number - 1] if pins else None)

    on_workers(tell)


def _pin(cpu: int | None) -> None:
    """Pin the calling thread, or let it go where it might run before."""
    worker = threading.get_native_id()
    if cpu is not None:
        _masks.setdefault(worker, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
    elif worker in _masks:
        os.sched_setaffinity(0, _masks.pop(worker))


def _unpin_all() -> None:
    """Let the workers of other threads go too."""
    while _masks:
        worker, mask = _masks.popitem()
        with contextlib.suppress(OSError):  # it has ended
            os.sched_setaffinity(worker, mask)
