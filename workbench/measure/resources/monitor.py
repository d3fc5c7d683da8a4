"""What a run takes over its time: processor, memory and GPU, sampled by a thread that rests while others time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from workbench.core.checks import require_int, require_positive
from workbench.measure.resources.monitor_reader import ResourceReader, Sample, merge_pairs

_SHORT = 0.2
"""Share of the period below which the rest before a pause is not worth a sample of its own."""


class Mark(NamedTuple):
    """A named moment of the run."""

    at_s: float
    name: str


class Pause(NamedTuple):
    """A time in which nothing was sampled; ``end_s`` is None while it lasts."""

    start_s: float
    end_s: float | None


class Cost(NamedTuple):
    """What the monitor itself took: CPU seconds, their share of one core, and ms for a sample."""

    cpu_s: float
    share: float
    ms_per_sample: float

    def __str__(self) -> str:
        return f"the monitor itself took {100 * self.share:.2g} % of one core ({self.ms_per_sample:.2g} ms a sample)"


class Monitor:
    """Samples this process with its children, the machine, and the GPUs where there are any.

    Parameters
    ----------
    rate_hz : float
        Samples per second, at the beginning.
    limit : int
        Most samples that are kept. When they are reached neighbours are joined (means of shares and power, the larger
        memory) and the rate is halved, so that a run of any length fits and is shown from its beginning. Of marks and
        pauses the latest ``limit`` are kept.
    gpu : bool
        False leaves GPUs out.

    Attributes
    ----------
    cost : Cost
        What the monitor itself took.
    error : Exception or None
        What ended the sampling early; a monitor never ends the run that it watches.

    Raises
    ------
    ConfigError
        If ``rate_hz`` is not above 0, or ``limit`` below 2.

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
        """Begin; does nothing while it runs. A monitor that was stopped goes on, on the same time axis."""
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
        """End, with a last sample; may be called again, also after Ctrl-C in the first call."""
        with self._state:
            if self._running:
                self._running = False
                if not self._holds:
                    self._take_rest()
                self._close_pause()
                self._ended = time.perf_counter()
            self._state.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Sample nothing in this block: the thread sleeps until its end. Blocks may stand in one another.

        The block begins when a sample that is being taken is finished.
        """
        self._hold(1)
        try:
            yield
        finally:
            self._hold(-1)

    def mark(self, name: str) -> None:
        """Note that something begins now, for the time axis."""
        with self._state:
            self._marks.append(Mark(self._now(), str(name)))

    @property
    def running(self) -> bool:
        """Whether it is started and not stopped; pauses count as running."""
        return self._running

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What was sampled, in order."""
        with self._state:
            return tuple(self._samples)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Named moments, in order."""
        with self._state:
            return tuple(self._marks)

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """Times in which nothing was sampled, in order."""
        with self._state:
            return tuple(self._pauses)

    @property
    def seconds(self) -> float:
        """Length of the time axis so far."""
        with self._state:
            return self._now()

    @property
    def gpu_reason(self) -> str | None:
        """Why there is no figure of a GPU, None where there is."""
        return self._reader.gpu_reason if self._reader is not None else "The monitor was not started."

    @property
    def cost(self) -> Cost:
        """What the monitor itself took so far."""
        with self._state:
            seconds = self._now()
            share = self._cpu_s / seconds if seconds > 0 else 0.0
            return Cost(self._cpu_s, share, 1e3 * self._cpu_s / self._taken if self._taken else 0.0)

    def columns(self) -> dict[str, list[Any]]:
        """Return the samples by column, as ``pandas.DataFrame`` takes them; units stand in the names."""
        samples = self.samples
        return {name: [getattr(sample, name) for sample in samples] for name in Sample._fields}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
                    except Exception as error:  # noqa: BLE001 - whatever it is, the run that is watched goes on
                        self.error, self._running, self._ended = error, False, time.perf_counter()
                        return
                    due = max(due + self._period, time.perf_counter())

    def _hold(self, change: int) -> None:
        with self._state:
            self._holds += change
            if self._running and self._reader is not None:
                if change > 0 and self._holds == 1:
                    self._take_rest()
                    self._pauses.append(Pause(self._now(), None))
                elif self._holds == 0:
                    self._close_pause()
                    self._reader.reset()
            self._state.notify_all()

    def _close_pause(self) -> None:
        if self._pauses and self._pauses[-1].end_s is None:
            self._pauses[-1] = Pause(self._pauses[-1].start_s, self._now_running())

    def _now_running(self) -> float:
        return time.perf_counter() - self._started

    def _take_rest(self) -> None:
        """Sample what is left before a pause or the end, so that it is not missing in the sums."""
        if self._reader is not None and (self._reader.since_s > _SHORT * self._period or not self._samples):
            with contextlib.suppress(Exception):  # what is wrong shows at the next regular sample
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
