"""Run one MLPerf LoadGen test in this process.

LoadGen is C++ that calls back into Python, and an exception must not pass through it: the system under test stores the
first error (or Ctrl-C), and it is raised after the test.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import EngineError
from workbench.core.files import writable_folder
from workbench.core.lazy import optional_import
from workbench.measure.loadgen.log import PREFIX, LoadGenLog, read_log

if TYPE_CHECKING:
    from workbench.measure.loadgen.sut import LoadGenSut

_ONE = threading.Lock()


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
    """Return LoadGen's module.

    Raises
    ------
    PackageMissing
        If it is not installed.
    """
    with optional_import("A scenario of MLPerf LoadGen"):
        import mlperf_loadgen
    return mlperf_loadgen


def run_load(load: Load, system: LoadGenSut, *, count: int, logs: Path | None = None) -> LoadGenLog:
    """Run one test on the calling thread over ``count`` samples and return its log.

    Parameters
    ----------
    logs : Path, optional
        Keep LoadGen's files in this folder; None: read and delete them.

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
    library = lg.ConstructQSL(count, count, _in_memory, _in_memory)
    try:
        with _interrupts(system.interrupt):
            # without a name LoadGen would apply an audit.config of the working folder
            no_audit = str(folder / "no-audit.config")
            lg.StartTestWithLogSettings(sut, library, settings(load), _log_settings(folder), no_audit)
    finally:
        lg.DestroyQSL(library)
        lg.DestroyFastSUT(sut)


def _in_memory(_: object) -> None:
    """Do nothing: all samples stay in memory."""


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
