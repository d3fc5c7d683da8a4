"""torch's threads are one set for the whole process: changed here only, and put back when nobody needs it any more."""

from __future__ import annotations

import threading
from types import TracebackType

import torch

from workbench.core.denormals import can_flush, flushing, set_flushing
from workbench.engine.workers import can_reach_workers, on_workers

CANNOT_FLUSH = "flush_denormals=True: threads cannot be told to flush denormals on this platform; they are computed"
CALLER_ONLY = (
    "flush_denormals=True holds on the thread that calls only: torch's workers cannot be reached on this platform"
)

_lock = threading.Lock()
_claims: set[ThreadClaim] = set()
_original: int | None = None
_told = threading.local()
"""``flush``: the threads that this thread's workers were told to flush with, absent where they were told nothing."""


class ThreadClaim:
    """One engine's wish for a number of torch threads, and for how they treat denormals.

    While several engines are open each calls :meth:`apply` before it runs. When the last one is released all is as it
    was before the first was made. Workers belong to the thread that calls torch: those of another thread than the one
    that releases go on flushing until that thread runs a torch engine again, or ends.

    A ``with`` block around a call is for the thread that calls: outside of it, it computes as before.
    """

    def __init__(self, threads: int, *, flush: bool = False) -> None:
        global _original
        self.threads = threads
        self.flush = flush and can_flush()
        self._before = False
        self.notes: tuple[str, ...] = ()
        if flush and not self.flush:
            self.notes = (CANNOT_FLUSH,)
        elif flush and threads > 1 and not can_reach_workers():
            self.notes = (CALLER_ONLY,)
        with _lock:
            if not _claims:
                _original = torch.get_num_threads()
            _claims.add(self)
        self.apply()

    def apply(self) -> None:
        """Set torch's thread count, and what its workers do, where it is another."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        _tell(self.threads if self.flush else None)

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
        with _lock:
            if self not in _claims:
                return
            _claims.discard(self)
            if not _claims and _original is not None:
                _tell(None)
                torch.set_num_threads(_original)


def _tell(flush: int | None) -> None:
    """Tell this thread's workers once; new ones, of a larger team, start as the thread that calls is."""
    if getattr(_told, "flush", None) == flush:
        return
    _told.flush = flush

    def tell(number: int) -> None:
        if number > 0:
            set_flushing(flush is not None)

    on_workers(tell)
