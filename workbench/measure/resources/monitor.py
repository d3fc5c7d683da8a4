"""Sample CPU, memory and GPU usage of a run over time, in a thread that pauses during timings."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from workbench.core.checks import require_int, require_positive
from workbench.measure.resources.monitor_reader import ResourceReader, Sample, merge_pairs

_SHORT = 0.2
"""Minimum share of the period for a last sample before a pause."""


class Mark(NamedTuple):
    """A named point in time of the run."""

    at_s: float
    name: str


class Pause(NamedTuple):
    """An interval without samples; ``end_s`` is None while it lasts."""

    start_s: float
    end_s: float | None


class Cost(NamedTuple):
    """Overhead of the monitor: CPU seconds, share of one core, and ms per sample."""

    cpu_s: float
    share: float
    ms_per_sample: float

    def __str__(self) -> str:
        return f"monitor overhead {100 * self.share:.2g} % of one core ({self.ms_per_sample:.2g} ms per sample)"


class Monitor:
    """Monitor of this process with its children, the machine, and its GPUs.

    Parameters
    ----------
    rate_hz : float
        Initial samples per second.
    limit : int
        Maximum number of samples. At the limit, adjacent samples are merged (mean of shares and power, maximum of
        memory) and the rate is halved, so that any run fits. Of marks and pauses the latest ``limit`` are kept.
    gpu : bool
        False leaves GPUs out.

    Attributes
    ----------
    error : Exception or None
        The error that ended the sampling; it does not end the run.

    Examples
    --------
    >>> with Monitor(rate_hz=20) as monitor:
    ...     monitor.mark("sum")
    ...     total = sum(range(10**5))
    ...     with monitor.paused():
    ...         pass  # time something
    >>> monitor.columns()["rss_mib"][-1] > 1
    True
    """

    def __init__(self, *, rate_hz: float = 2.0, limit: int = 2000, gpu: bool = True) -> None:
        self._period = 1 / require_positive("Monitor: rate_hz", rate_hz, unit="samples per second")
        self._limit = require_int("Monitor: limit", limit, minimum=2)
        self._gpu = gpu
        self._state = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._reader: ResourceReader | None = None
        self._started = self._ended = 0.0
        self._running, self._holds = False, 0
        self._samples: list[Sample] = []
        self._marks: deque[Mark] = deque(maxlen=limit)
        self._pauses: deque[Pause] = deque(maxlen=limit)
        self._taken, self._cpu_s = 0, 0.0
        self.error: Exception | None = None

    def start(self) -> Self:
        """Start, or continue a stopped monitor on the same time axis; no effect while running."""
        with self._state:
            if self._running:
                return self
            now = time.perf_counter()
            if self._reader is None:
                self._reader, self._started = ResourceReader(gpu=self._gpu), now
            elif self._thread is not None:
                self._pauses.append(Pause(self._ended - self._started, now - self._started))
                self._reader.reset()
            self._running, self.error = True, None
            if self._holds:
                self._pauses.append(Pause(now - self._started, None))
            self._thread = threading.Thread(target=self._run, name="workbench-monitor", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Stop after a last sample; may be called again, also after Ctrl-C."""
        with self._state:
            if self._running:
                self._running = False
                if not self._holds:
                    self._take_last()
                self._close_pause()
                self._ended = time.perf_counter()
            self._state.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause sampling within this block; the thread sleeps, and blocks may be nested.

        The block begins after a running sample.
        """
        self._hold(1)
        try:
            yield
        finally:
            self._hold(-1)

    def mark(self, name: str) -> None:
        """Add a named mark at this time."""
        with self._state:
            self._marks.append(Mark(self._now(), str(name)))

    @property
    def running(self) -> bool:
        """True between start and stop, also while paused."""
        return self._running

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples in order."""
        with self._state:
            return tuple(self._samples)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The marks in order."""
        with self._state:
            return tuple(self._marks)

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """The pauses in order."""
        with self._state:
            return tuple(self._pauses)

    @property
    def seconds(self) -> float:
        """Length of the time axis so far."""
        with self._state:
            return self._now()

    @property
    def gpu_reason(self) -> str | None:
        """Reason for missing GPU figures, or None."""
        return self._reader.gpu_reason if self._reader is not None else "The monitor was not started."

    @property
    def cost(self) -> Cost:
        """Overhead of the monitor so far."""
        with self._state:
            seconds = self._now()
            share = self._cpu_s / seconds if seconds > 0 else 0.0
            return Cost(self._cpu_s, share, 1e3 * self._cpu_s / self._taken if self._taken else 0.0)

    def columns(self) -> dict[str, list[Any]]:
        """Return the samples by column for ``pandas.DataFrame``; names include units."""
        samples = self.samples
        return {name: [getattr(sample, name) for sample in samples] for name in Sample._fields}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Monitor({len(self._samples)} samples in {self.seconds:.1f} s; {self.cost})"

    def _now(self) -> float:
        if self._reader is None:
            return 0.0
        return (time.perf_counter() if self._running else self._ended) - self._started

    def _run(self) -> None:
        me = threading.current_thread()
        with self._state:
            due = time.perf_counter() + self._period
            while self._running and self._thread is me:
                if self._holds:
                    self._state.wait()
                    due = time.perf_counter() + self._period
                elif (left := due - time.perf_counter()) > 0:
                    self._state.wait(left)
                else:
                    try:
                        self._take()
                    except Exception as error:  # noqa: BLE001 - the monitored run goes on
                        self.error, self._running, self._ended = error, False, time.perf_counter()
                        return
                    due = max(due + self._period, time.perf_counter())

    def _hold(self, change: int) -> None:
        with self._state:
            self._holds += change
            if self._running and self._reader is not None:
                if change > 0 and self._holds == 1:
                    self._take_last()
                    self._pauses.append(Pause(self._now(), None))
                elif self._holds == 0:
                    self._close_pause()
                    self._reader.reset()
            self._state.notify_all()

    def _close_pause(self) -> None:
        if self._pauses and self._pauses[-1].end_s is None:
            self._pauses[-1] = Pause(self._pauses[-1].start_s, time.perf_counter() - self._started)

    def _take_last(self) -> None:
        """Sample the remaining time before a pause or the end, so that sums are complete."""
        if self._reader is not None and (self._reader.since_s > _SHORT * self._period or not self._samples):
            with contextlib.suppress(Exception):  # a persistent error occurs in the next regular sample too
                self._take()

    def _take(self) -> None:
        if self._reader is None:
            return
        before = time.thread_time()
        self._samples.append(self._reader.read(self._started))
        self._taken += 1
        if len(self._samples) >= self._limit:
            self._samples = merge_pairs(self._samples)
            self._period *= 2
        self._cpu_s += time.thread_time() - before
