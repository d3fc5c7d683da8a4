"""The run in progress: its cancel token, its future in a thread of its own, and its summary."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from workbench.core.errors import StudyError
from workbench.study.workers.process import CancelToken


@dataclass(frozen=True)
class RunSummary:
    """Numbers of trials that are finished, reused from earlier runs, failed, and open; ``cut`` lists what was left out.

    ``phases_s`` are the wall-clock seconds of each of :data:`workbench.study.workers.policy.PHASES`; ``covered_s`` are
    those of any of them.
    """

    finished: int
    reused: int
    failed: int
    open: int
    cancelled: bool
    seconds: float
    cut: tuple[str, ...] = ()
    phases_s: Mapping[str, float] = field(default_factory=dict)
    covered_s: float = 0.0

    @property
    def harness_s(self) -> float | None:
        """Seconds outside of all phases: process starts, imports, database. None on a cluster."""
        return max(0.0, self.seconds - self.covered_s)

    def __repr__(self) -> str:
        counts = ((self.reused, "reused"), (self.failed, "failed"), (self.open, "open"))
        parts = [f"{self.finished} trials finished in {self.seconds:.0f} s", *(f"{n} {w}" for n, w in counts if n)]
        text = ", ".join(parts) + ("; cancelled" if self.cancelled else "")
        lines = [f"RunSummary({text})"]
        if self.phases_s:
            spent = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in self.phases_s.items())
            lines.append(f"  seconds by phase: {spent}; the workbench itself {self.harness_s:.0f}")
        return "\n".join([*lines, *(f"  {line}" for line in self.cut)])


class Job(Future[RunSummary]):
    """A running :meth:`Study.run`: a :class:`concurrent.futures.Future` of its summary.

    ``result(timeout)`` returns the summary or raises what the run raised; ``exception(timeout)``, ``done()`` and
    ``add_done_callback(function)`` are those of every future.
    """

    def __init__(self, work: Callable[[], RunSummary], request_stop: Callable[[], None]) -> None:
        super().__init__()
        self._work, self._request_stop = work, request_stop
        self.set_running_or_notify_cancel()
        threading.Thread(target=self._run, name="workbench-study", daemon=True).start()

    def cancel(self) -> bool:
        """Request the run to stop; return False if it has ended.

        It ends within a few seconds, and the summary has ``cancelled`` True.
        """
        if self.done():
            return False
        self._request_stop()
        return True

    def _run(self) -> None:
        try:
            summary = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self.set_exception(error)
        else:
            self.set_result(summary)


class ActiveRun:
    """The cancel token of the one run, search or measurement in progress, and the thread that it works in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: CancelToken | None = None
        self._thread: int | None = None

    def begin(self, budget_s: float | None = None) -> CancelToken:
        """Return the token of a new run; StudyError if one is in progress."""
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
