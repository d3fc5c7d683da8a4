"""torch's thread count is one for the whole process: set here only, and put back when nobody needs it any more."""

from __future__ import annotations

import threading

import torch

_lock = threading.Lock()
_claims: set[ThreadClaim] = set()
_original: int | None = None


class ThreadClaim:
    """One engine's wish for a number of torch threads.

    While several engines are open each calls :meth:`apply` before it runs. When the last one is released the count
    is what it was before the first was made.
    """

    def __init__(self, threads: int) -> None:
        global _original
        self.threads = threads
        with _lock:
            if not _claims:
                _original = torch.get_num_threads()
            _claims.add(self)
        self.apply()

    def apply(self) -> None:
        """Set torch's thread count where it is another."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def release(self) -> None:
        """Give the claim up; may be called twice."""
        with _lock:
            if self not in _claims:
                return
            _claims.discard(self)
            if not _claims and _original is not None:
                torch.set_num_threads(_original)
