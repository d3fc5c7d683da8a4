"""The run of a panel: its settings, and its job in the background."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.core.config import Config, from_dict, option_of
from workbench.core.errors import Cancelled, StudyError
from workbench.core.progress import Progress
from workbench.study.config import BUDGET_S, RunConfig, check_batch_sizes, default_budget_s

if TYPE_CHECKING:
    from workbench.study.execution.job import Job, RunSummary
    from workbench.study.study import Study

TICK_S = 0.5


class PanelJob:
    """Run one job at a time in the background; the callables are called in the run's thread.

    ``open_study`` returns the study. ``tick`` is called about twice a second with the last progress event (or None) and
    whether rows changed since the last tick, ``ended`` once after the job, with ``state`` and ``error`` set. ``state``
    is ready, running, cancelling, cancelled, finished or failed. ``error``, ``result`` and ``seconds`` are those of the
    last run; ``error`` is None after a cancel.
    """

    def __init__(
        self,
        open_study: Callable[[], Study],
        *,
        tick: Callable[[Progress | None, bool], None],
        ended: Callable[[], None],
    ) -> None:
        self._open_study, self._tick, self._ended = open_study, tick, ended
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._job: Job | None = None
        self._stop = False
        self._latest: Progress | None = None
        self._rows_changed = threading.Event()
        self.state = "ready"
        self.error: Exception | None = None
        self.result: RunSummary | None = None
        self.started = self.seconds = 0.0

    @property
    def busy(self) -> bool:
        """True while a run is going on."""
        return self.state in ("running", "cancelling")

    def start(self, plan: dict[str, Any]) -> bool:
        """Start ``study.start(**plan)`` in a thread; return False if a run is active."""
        with self._lock:
            if self.busy:
                return False
            self.wait()  # the last run's thread may still show its end
            self.state, self.error, self._stop = "running", None, False
            self._job, self._latest, self.result = None, None, None
            self._rows_changed.clear()
            self.started = time.monotonic()
            self._thread = threading.Thread(target=self._work, args=(plan,), name="workbench-run", daemon=True)
            self._thread.start()
            return True

    def cancel(self) -> bool:
        """Request the run to stop; return False if none is active."""
        with self._lock:
            if self.state != "running":
                return False
            self.state, self._stop = "cancelling", True
            if self._job is not None:
                self._job.cancel()
            return True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds for the run to end; return True if it has."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return not self.busy
        thread.join(timeout)
        return not thread.is_alive()

    def _on_progress(self, event: Progress) -> None:
        self._latest = event
        if not {"row", "best", "plan"}.isdisjoint(event.values):
            self._rows_changed.set()

    def _work(self, plan: dict[str, Any]) -> None:
        error: Exception | None = None
        try:
            self._watch(plan)
        except Exception as problem:  # noqa: BLE001 - shown by the panel
            error = problem
        with self._lock:
            stopped = self._stop or (self.result is not None and self.result.cancelled)
            cancelled = stopped and (error is None or isinstance(error, Cancelled))
            self.error = None if cancelled else error
            self.state = "cancelled" if cancelled else "failed" if error is not None else "finished"
            self.seconds = time.monotonic() - self.started
        self._ended()

    def _watch(self, plan: dict[str, Any]) -> None:
        job = self._open_study().start(**plan, progress=self._on_progress)
        with self._lock:
            self._job = job
            if self._stop:
                job.cancel()
        while not job.done():
            concurrent.futures.wait([job], TICK_S)
            changed = self._rows_changed.is_set()
            self._rows_changed.clear()
            self._tick(self._latest, changed)
        error = job.exception()
        if error is not None and not isinstance(error, Exception):
            raise StudyError(f"The run ended with {type(error).__name__}.") from error
        self.result = job.result()


@dataclass(frozen=True)
class RunSettings(Config):
    """The options of :class:`RunConfig` that a panel shows."""

    batch_sizes: tuple[int, ...] = option_of(RunConfig, "batch_sizes")
    threads: int | None = option_of(RunConfig, "threads")
    quality_drop: float = option_of(RunConfig, "quality_drop")
    budget_s: float = option_of(RunConfig, "budget_s", default=BUDGET_S, above=None, minimum=10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_batch_sizes(self)

    @classmethod
    def for_task(cls, name: str, given: Mapping[str, Any]) -> RunSettings:
        """Return the default settings for a task, with what is ``given``."""
        return from_dict(cls, {"budget_s": default_budget_s(name), **given})
