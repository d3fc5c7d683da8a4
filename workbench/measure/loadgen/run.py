"""Run one MLPerf LoadGen test in this process, on the issuing thread or in a batcher.

LoadGen is C++ that calls back into Python, and an exception must not pass through it: the system under test stores the
first error (or Ctrl-C), and it is raised after the test.
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
from workbench.core.files import writable_folder
from workbench.core.lazy import optional_import
from workbench.measure.loadgen.log import PREFIX, LoadGenLog, read_log

_ONE = threading.Lock()
_POLL_S = 0.05
"""Poll interval for interrupts while waiting for the last results."""


@dataclass(frozen=True)
class Load:
    """Settings of a LoadGen test.

    Attributes
    ----------
    scenario : str
        LoadGen's name: SingleStream, MultiStream, Offline or Server.
    duration_s : float
        Minimum seconds of the test.
    per_s : float
        Server: mean rate of the Poisson arrivals. Others: expected queries per second (Offline: samples), from which
        LoadGen derives the number of queries that it makes beforehand.
    samples_per_query : int
        MultiStream only.
    percentile, latency_bound_ms : float
        Percentile of the criterion, and its bound (Server only).
    outstanding : int
        Server only: LoadGen ends the test with more outstanding queries than this; 0 for no limit.
    """

    scenario: str
    duration_s: float
    per_s: float
    samples_per_query: int = 1
    percentile: float = 0.9
    latency_bound_ms: float = 0.0
    outstanding: int = 0
    seed: int = 0


def loadgen() -> Any:
    """Return LoadGen's module, or raise PackageMissing."""
    with optional_import("A scenario of MLPerf LoadGen"):
        import mlperf_loadgen
    return mlperf_loadgen


class LoadGenSut(ABC):
    """A system under test; the first error ends the work, not the test."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._began = self._ended = 0.0
        module = loadgen()
        self._response, self._report = module.QuerySampleResponse, module.QuerySamplesComplete

    @abstractmethod
    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Run a query: an id and an index for each sample. Never raises."""

    @abstractmethod
    def flush(self) -> None:
        """Finish pending queries after the last one. Never raises."""

    @property
    def seconds(self) -> float:
        """Seconds from the first query to the last completion."""
        return self._ended - self._began

    def begin(self) -> None:
        """Record the time of the first query."""
        self._began = self._began or time.perf_counter()

    def fail(self, error: BaseException) -> None:
        """Store the first error; further queries are completed without work."""
        if self.error is None:
            self.error = error

    def interrupt(self, *_: object) -> None:
        """Handle SIGINT."""
        self.fail(KeyboardInterrupt())

    def complete(self, ids: Sequence[int]) -> None:
        """Report samples to LoadGen as complete."""
        response = self._response
        self._report([response(i, 0, 0) for i in ids])
        self._ended = time.perf_counter()


class DirectSut(LoadGenSut):
    """Runs queries on the thread that issues them, by ``call(indices)`` of at most ``part`` samples."""

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
        except BaseException as error:  # noqa: BLE001 - raised after the test
            self.fail(error)
        if done < len(ids):
            self.complete(ids[done:])

    def flush(self) -> None:
        """Return at once: no query is pending."""


class BatchedSut(LoadGenSut):
    """Submits queries of one sample to a batcher and reports them when their futures are done.

    After an error nothing is completed before the last query, so that LoadGen ends the test because of too many
    outstanding queries. ``submit`` returns a future for the index of a sample; ``cancel`` cancels pending samples.
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
                    self._submit(index).add_done_callback(functools.partial(self._done, sample))
        except BaseException as error:  # noqa: BLE001 - raised after the test
            self.fail(error)

    def _done(self, sample: int, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fail(error)
        if self.error is None:
            self._complete_once([sample])

    def flush(self) -> None:
        try:
            with self._change:
                while self._waiting and self.error is None:
                    self._change.wait(_POLL_S)
            if self.error is not None:
                self._cancel()
                self._complete_once(list(self._waiting))
        except BaseException as error:  # noqa: BLE001 - raised after the test
            self.fail(error)
            self._complete_once(list(self._waiting))

    def _complete_once(self, samples: Sequence[int]) -> None:
        """Complete each pending sample once: an id is an address in LoadGen that is freed with the test."""
        with self._change:
            mine = [sample for sample in samples if sample in self._waiting]
            self._waiting.difference_update(mine)
            if not self._waiting:
                self._change.notify_all()
        if mine:
            self.complete(mine)


def run_load(load: Load, system: LoadGenSut, *, count: int, logs: Path | None = None) -> LoadGenLog:
    """Run one test on the calling thread over ``count`` samples and return its log; keep LoadGen's files in ``logs``.

    Raises
    ------
    EngineError
        If another test runs in this process, or LoadGen wrote no result.
    Exception
        The first error of the system under test, also KeyboardInterrupt.
    """
    if not _ONE.acquire(blocking=False):
        raise EngineError("LoadGen runs one test at a time per process. Wait for the running one.")
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
        yield writable_folder(logs)
        return
    with tempfile.TemporaryDirectory(prefix="workbench-loadgen-") as folder:
        yield Path(folder)


def _start(load: Load, system: LoadGenSut, count: int, folder: Path) -> None:
    lg = loadgen()
    sut = lg.ConstructFastSUT(system.issue, system.flush)
    library = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)  # all samples stay in memory
    try:
        with _interrupts(system.interrupt):
            # without a name LoadGen would apply an audit.config of the working folder
            no_audit = str(folder / "no-audit.config")
            lg.StartTestWithLogSettings(sut, library, settings(load), _log_settings(folder), no_audit)
    finally:
        lg.DestroyQSL(library)
        lg.DestroyFastSUT(sut)


@contextlib.contextmanager
def _interrupts(handler: Callable[..., None]) -> Iterator[None]:
    """Handle SIGINT by ``handler``, because a KeyboardInterrupt in a callback would pass through LoadGen."""
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
    """Return LoadGen's settings for a load, with its minimum duration and any number of queries."""
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
    made.enable_trace = True  # the only record of the latency of every query
    return made
