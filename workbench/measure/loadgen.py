"""MLPerf LoadGen in this process: what it is asked to do, what answers it, and a test whose errors come out.

LoadGen is C++ that calls back into Python, and an exception must never go through it: what answers keeps the first
error, lets the test come to its end, and the error is raised afterwards. The same holds for Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.core.errors import EngineError
from workbench.core.files import require_writable
from workbench.core.lazy import needing
from workbench.measure.loadgen_log import PREFIX, LoadGenLog, read_log

_ONE = threading.Lock()
_LEAVES_OFF_S = 0.05
"""How often a wait for the last answers looks whether it was interrupted."""


@dataclass(frozen=True)
class Load:
    """What LoadGen is asked to do.

    Attributes
    ----------
    scenario : str
        LoadGen's name: SingleStream, MultiStream, Offline or Server.
    duration_s : float
        Least seconds of the test.
    per_s : float
        Server: the mean rate of its Poisson arrivals. Others: what is expected, queries per second (Offline: samples),
        from which LoadGen takes how many queries it makes beforehand.
    samples_per_query : int
        MultiStream only.
    percentile : float
        The percentile that LoadGen judges by, 0 to 1.
    latency_bound_ms : float
        Server only: what that percentile may be at most.
    outstanding : int
        Server only: with more unanswered queries than this LoadGen ends the test; 0 for any number.
    """

    scenario: str
    duration_s: float
    per_s: float
    samples_per_query: int = 1
    percentile: float = 0.9
    latency_bound_ms: float = 0.0
    outstanding: int = 0
    seed: int = 0


class System(ABC):
    """What answers LoadGen's queries; the first error ends the work, not the test."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._began = self._ended = 0.0
        module = loadgen()
        self._response, self._tell = module.QuerySampleResponse, module.QuerySamplesComplete

    @abstractmethod
    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Take a query: an id for each sample, and its place in the samples. Never raises."""

    @abstractmethod
    def flush(self) -> None:
        """Hear that no further query comes. Never raises."""

    @property
    def seconds(self) -> float:
        """Seconds from the first query until the last answer."""
        return self._ended - self._began

    def begin(self) -> None:
        """Note when the first query comes."""
        self._began = self._began or time.perf_counter()

    def fail(self, error: BaseException) -> None:
        """Keep the first error: from now on queries are completed without work."""
        if self.error is None:
            self.error = error

    def interrupt(self, *_: object) -> None:
        """Take Ctrl-C."""
        self.fail(KeyboardInterrupt())

    def complete(self, ids: Sequence[int]) -> None:
        """Tell LoadGen that samples are done."""
        response = self._response
        self._tell([response(i, 0, 0) for i in ids])
        self._ended = time.perf_counter()


class Direct(System):
    """Answers on the thread that issues, which is the one that runs the test.

    Parameters
    ----------
    call : function
        Runs the samples at some places.
    part : int
        Samples of one call; a query with more is answered in parts.
    """

    def __init__(self, call: Callable[[list[int]], object], *, part: int) -> None:
        super().__init__()
        self._call, self._part = call, part

    def issue(self, ids: list[int], indices: list[int]) -> None:
        done = 0
        try:
            self.begin()
            while done < len(ids) and self.error is None:
                end = done + self._part
                self._call(indices[done:end])
                self.complete(ids[done:end])
                done = end
        except BaseException as error:  # noqa: BLE001 - raised when the test has ended
            self.fail(error)
        if done < len(ids):
            self.complete(ids[done:])

    def flush(self) -> None:
        """Nothing waits."""


class Queued(System):
    """Hands queries of one sample to what answers later, and tells LoadGen when it has.

    After an error nothing is completed before the last query was issued: so LoadGen soon finds too many outstanding
    ones, and ends the test.

    Parameters
    ----------
    submit : function
        Takes the place of a sample, and returns a future at once.
    cancel : function
        Drops what waits.
    """

    def __init__(self, submit: Callable[[int], Future[Any]], cancel: Callable[[], None]) -> None:
        super().__init__()
        self._submit, self._cancel = submit, cancel
        self._waiting: set[int] = set()
        self._change = threading.Condition()

    def issue(self, ids: list[int], indices: list[int]) -> None:
        try:
            self.begin()
            with self._change:
                self._waiting.update(ids)
            for sample, index in zip(ids, indices, strict=True):
                if self.error is None:
                    self._submit(index).add_done_callback(functools.partial(self._answered, sample))
        except BaseException as error:  # noqa: BLE001 - raised when the test has ended
            self.fail(error)

    def _answered(self, sample: int, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fail(error)
        if self.error is None:
            self._complete_once([sample])

    def flush(self) -> None:
        try:
            with self._change:
                while self._waiting and self.error is None:
                    self._change.wait(_LEAVES_OFF_S)
            if self.error is not None:
                self._cancel()
                self._complete_once(list(self._waiting))
        except BaseException as error:  # noqa: BLE001 - raised when the test has ended
            self.fail(error)
            self._complete_once(list(self._waiting))

    def _complete_once(self, samples: Sequence[int]) -> None:
        """Complete what still waits: an id is an address in LoadGen that is freed with the test."""
        with self._change:
            mine = [sample for sample in samples if sample in self._waiting]
            self._waiting.difference_update(mine)
            if not self._waiting:
                self._change.notify_all()
        if mine:
            self.complete(mine)


def loadgen() -> Any:
    """Return LoadGen's module.

    Raises
    ------
    PackageMissing
        If it is not installed.
    """
    with needing("A scenario of MLPerf LoadGen"):
        import mlperf_loadgen
    return mlperf_loadgen


def run_load(load: Load, system: System, *, count: int, logs: Path | None = None) -> LoadGenLog:
    """Run one test on the thread that calls, over ``count`` samples, and return its log.

    Parameters
    ----------
    logs : Path, optional
        The folder that keeps LoadGen's files, over those of an earlier test; None: they are read and deleted.

    Raises
    ------
    EngineError
        If another test runs in this process, or LoadGen wrote no result.
    Exception
        What answering the queries raised, KeyboardInterrupt too.
    """
    if not _ONE.acquire(blocking=False):
        raise EngineError("LoadGen runs one test at a time in a process. Wait for the one that runs.")
    try:
        with _folder(logs) as folder:
            _start(load, system, count, folder)
            if system.error is not None:
                raise system.error
            return read_log(folder)
    finally:
        _ONE.release()


@contextlib.contextmanager
def _folder(logs: Path | None) -> Iterator[Path]:
    if logs is not None:
        yield require_writable(logs)
        return
    with tempfile.TemporaryDirectory(prefix="workbench-loadgen-") as folder:
        yield Path(folder)


def _start(load: Load, system: System, count: int, folder: Path) -> None:
    lg = loadgen()
    sut = lg.ConstructFastSUT(system.issue, system.flush)
    library = lg.ConstructQSL(count, count, _in_memory, _in_memory)
    try:
        with _interrupts(system.interrupt):
            # Without a name LoadGen would read an audit.config of the working folder over these settings.
            no_audit = str(folder / "no-audit.config")
            lg.StartTestWithLogSettings(sut, library, settings(load), _log_settings(folder), no_audit)
    finally:
        lg.DestroyQSL(library)
        lg.DestroyFastSUT(sut)


def _in_memory(_: object) -> None:
    """All samples are in memory before the test, and stay there."""


@contextlib.contextmanager
def _interrupts(handler: Callable[..., None]) -> Iterator[None]:
    """Hand Ctrl-C to ``handler``: raised between two lines of a callback it would go through LoadGen."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def settings(load: Load) -> Any:
    """Return LoadGen's settings for a load: as short as it asks for, and any number of queries."""
    lg = loadgen()
    made = lg.TestSettings()
    made.scenario = getattr(lg.TestScenario, load.scenario)
    made.mode = lg.TestMode.PerformanceOnly
    made.min_duration_ms, made.max_duration_ms = max(1, round(load.duration_s * 1e3)), 0
    made.min_query_count, made.max_query_count = 1, 0
    made.qsl_rng_seed = made.sample_index_rng_seed = made.schedule_rng_seed = load.seed
    expected_ns = max(1, round(1e9 / load.per_s))
    made.single_stream_expected_latency_ns = made.multi_stream_expected_latency_ns = expected_ns
    made.single_stream_target_latency_percentile = load.percentile
    made.multi_stream_target_latency_percentile = load.percentile
    made.server_target_latency_percentile = load.percentile
    made.multi_stream_samples_per_query = load.samples_per_query
    made.offline_expected_qps = load.per_s
    made.server_target_qps = load.per_s
    made.server_target_latency_ns = round(load.latency_bound_ms * 1e6)
    made.server_max_async_queries = load.outstanding
    return made


def _log_settings(folder: Path) -> Any:
    lg = loadgen()
    output = lg.LogOutputSettings()
    output.outdir, output.prefix = str(folder), PREFIX
    output.copy_summary_to_stdout = output.copy_detail_to_stdout = False
    made = lg.LogSettings()
    made.log_output = output
    made.enable_trace = True  # the only place where LoadGen tells the latency of every query
    return made
