"""Progress as lines of text, for logs and terminals without widgets."""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from workbench.core.progress import Progress

QUIET_S = 5.0


class ProgressLog:
    """A progress callback that writes ``[ 12 s] 3/54 message``, at most every five seconds.

    The end of a trial is always written. Seconds count from ``started_at`` (since 1970), or from now.
    """

    def __init__(self, stream: TextIO, *, every_s: float = QUIET_S, started_at: float = 0.0) -> None:
        self._stream, self._every_s = stream, every_s
        self._start = time.monotonic() - (time.time() - started_at if started_at else 0.0)
        self._last_s, self._last_message = float("-inf"), ""

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        message = event.message or event.stage
        row = event.values.get("row")
        ended = isinstance(row, dict) and row.get("state") in ("complete", "pruned", "failed")
        if message == self._last_message or (now - self._last_s < self._every_s and not ended):
            return
        self._last_s, self._last_message = now, message
        done = f"{int(event.done)}/{int(event.total)} " if event.total >= 1 else ""
        self.write(f"{done}{message}")

    def write(self, text: str) -> None:
        """Write one line with the time since the start."""
        with contextlib.suppress(BrokenPipeError):  # the reader is gone; the work continues
            self._stream.write(f"[{time.monotonic() - self._start:4.0f} s] {text}\n")
            self._stream.flush()
