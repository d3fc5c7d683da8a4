"""The one run, search or measurement that a study has in progress."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.core.errors import StudyError

if TYPE_CHECKING:
    from workbench.study.workers.process import CancelToken


class ActiveRun:
    """The cancel token of the run in progress, and the thread that it works in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: CancelToken | None = None
        self._thread: int | None = None

    def begin(self, budget_s: float | None = None) -> CancelToken:
        """Return the token of a new run; StudyError if one is in progress."""
        from workbench.study.workers.process import CancelToken

        with self._lock:
            if self._token is not None:
                raise StudyError("This study is running already. Cancel it or wait for it, then run again.")
            self._token = CancelToken(None if budget_s is None else time.monotonic() + budget_s)
            self._thread = None
            return self._token

    @contextlib.contextmanager
    def work(self, token: CancelToken) -> Iterator[CancelToken]:
        """Mark this thread as the one that works; the run ends with the block."""
        self._thread = threading.get_ident()
        try:
            yield token
        finally:
            self._token = None

    def cancel(self) -> None:
        """Cancel the run in progress, from any thread."""
        if (token := self._token) is not None:
            token.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until the run in another thread has ended."""
        end = time.monotonic() + timeout_s
        while self._token is not None and threading.get_ident() != self._thread and time.monotonic() < end:
            time.sleep(0.02)
