"""Progress as lines of text, for logs and terminals without widgets."""

from __future__ import annotations

import contextlib
import time
from typing import TextIO

from workbench.core.progress import Progress

QUIET_S = 5.0


class Lines:
    """A progress callback that writes ``[ 12 s]  3/54  message`` when there is news, at most every five seconds.

    The end of a trial is always written. Seconds count from ``started_at`` (since 1970), or from now.
    """

    def __init__(self, stream: TextIO, *, every_s: float = QUIET_S, started_at: float = 0.0) -> None:
        self._stream, self._every_s = stream, every_s
        self._start = time.monotonic() - (time.time() - started_at if started_at else 0.0)
        self._last, self._said = float("-inf"), ""

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        message = event.message or event.stage
        row = event.values.get("row")
        settled = isinstance(row, dict) and row.get("state") in ("complete", "pruned", "failed")
        if message == self._said or (now - self._last < self._every_s and not settled):
            return
        self._last, self._said = now, message
        self.say(f"{_share(event)}{message}")

    def say(self, words: str) -> None:
        """Write one line with the time since the start."""
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more; the work is worth finishing
            self._stream.write(f"[{time.monotonic() - self._start:4.0f} s] {words}\n")
            self._stream.flush()


def _share(event: Progress) -> str:
    return f"{int(event.done)}/{int(event.total)} " if event.total >= 1 else ""
