"""Functions that run on a worker of a cluster: answer a probe, keep blobs, and do one unit at a time.

The worker runs a unit as a small study, in a folder and a scratch database that end with the worker. It never opens the
study's database: SQLite does not work from another machine, and a worker that was given up could still write rows.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.cpu import allowed_cores
from workbench.core.errors import StudyError, TrialFailed
from workbench.core.machine import this_site
from workbench.core.progress import Progress
from workbench.study.cluster.blobs import Blob, artifact_blob, held_blobs, mark_whole, read_task, write_blob
from workbench.study.cluster.job import WAITING, ClusterJob, JobResult, Span
from workbench.study.cluster.worker_info import WorkerInfo
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.local_executor import LocalExecutor
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.execution.quality import write_inputs
from workbench.study.execution.task_queue import PREPARE
from workbench.study.plan.trials import Trial
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.database import Store
from workbench.study.storage.session import RunSession
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PackedTask, PrepareClient
from workbench.study.workers.process import CancelToken, WorkerError

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_EVERY_S = 0.5
_UNIT = "unit"
_ACTIVE: dict[str, set[CancelToken]] = {}
_ONE = threading.Lock()


def probe(backends: Sequence[str], fingerprint: str, dask_worker: Any) -> WorkerInfo:
    """Return this worker's machine and versions, which of ``backends`` run here, and the blobs of a task."""
    from workbench.engine.backends import get_backend

    reasons: dict[str, str | None] = {}
    for name in backends:
        try:
            status = get_backend(name).status()
            reasons[name] = None if status.available else f"{status.reason}. {status.how or ''}".strip()
        except Exception as error:  # noqa: BLE001 - a backend of another package may fail in any way
            reasons[name] = f"{type(error).__name__}: {error}"
    held, cores = held_blobs(_folder(dask_worker, fingerprint)), frozenset(allowed_cores())
    return WorkerInfo(this_site(), platform.python_version(), platform.node(), cores, reasons, held)


def keep(blob: Blob, fingerprint: str, dask_worker: Any) -> None:
    """Write a blob into the folder of its task."""
    write_blob(blob, _folder(dask_worker, fingerprint))


def halt(run: str) -> int:
    """Cancel the units of a run, and return how many still run."""
    stops = list(_ACTIVE.get(run, ()))
    for stop in stops:
        stop.set()
    return len(stops)


def do(job: ClusterJob) -> JobResult:
    """Do a unit, as a task of Dask.

    Raises
    ------
    Cancelled, OutOfTime
        If the study cancelled it or has ended, or at the end of the budget.
    """
    from distributed import get_worker

    worker = get_worker()
    stop = _TaskToken(worker, str(worker.get_current_task()), job.seconds)
    with _ONE:  # also a worker with several threads does one at a time
        _ACTIVE.setdefault(job.run, set()).add(stop)
        try:
            return _Work(job, worker, stop).result()
        finally:
            _ACTIVE[job.run].discard(stop)


class _TaskToken(CancelToken):
    """Also cancelled if Dask has released the task: it was cancelled there, or the study's process is gone."""

    def __init__(self, worker: Any, key: str, seconds: float) -> None:
        super().__init__(None if seconds == float("inf") else time.monotonic() + seconds)
        self._worker, self._key = worker, key

    @property
    def requested(self) -> bool:
        task = self._worker.state.tasks.get(self._key)
        return super().requested or task is None or task.state == "cancelled"


class _Work:
    def __init__(self, job: ClusterJob, worker: Any, stop: CancelToken) -> None:
        self._job, self._worker, self._stop = job, worker, stop
        self._files = _folder(worker, job.fingerprint)
        self._policy = WorkerPolicy(job.stall_s)
        self._spans: list[Span] = []
        self._next_event = 0.0

    def result(self) -> JobResult:
        self._stop.check()
        # on shared cores, loading a library disturbs another worker's timing as much as a training does
        with self._span(exclusive=True) if self._job.shares_cores else contextlib.nullcontext():
            packed = read_task(self._files, self._job.fingerprint)
            parts = self._prepare(packed) if self._job.unit.kind == PREPARE else self._time(packed)
        return JobResult(**parts, spans=tuple(self._spans))

    def _prepare(self, packed: PackedTask) -> dict[str, Any]:
        job, trial, store = self._job, self._job.unit.trials[0], ArtifactStore(self._files)
        client = PrepareClient(self._files, self._stop, prefix_cache=job.prefix_cache, policy=self._policy)
        client.carry(packed)
        done = False
        try:
            client.start()
            with self._own_span(exclusive=job.times):
                client.prepare(trial, store, self._on_event, batch_sizes=job.batch_sizes)
            done = True
        except TrialFailed as error:  # another worker may have more memory; an error of the recipe would repeat
            return {"error": str(error), "final": isinstance(error, WorkerError)}
        finally:
            client.close(kill=not done)
        blob = artifact_blob(self._files, trial.artifact_key)
        mark_whole(blob, self._files)
        return {"blob": blob}

    def _time(self, packed: PackedTask) -> dict[str, Any]:
        job, error = self._job, None
        with tempfile.TemporaryDirectory(dir=self._files) as scratch:
            store = Store(f"sqlite:///{scratch}/unit.db")
            try:
                with RunSession(store, _UNIT, job.plan, job.rows, quality_drop=0.0, progress=self._report) as session:
                    executor = _UnitExecutor(
                        _task(packed), job.plan, session, packed, self._files, self._stop, policy=self._policy,
                        budget=_JobBudget(job, self._stop),
                    )  # fmt: skip
                    try:
                        executor.time_unit(job.unit.trials, self._own_span(exclusive=True))
                    except StudyError as problem:
                        error = str(problem)
                    rows = {trial.key: session.row(trial) for trial in job.unit.trials}
            finally:
                store.close()
        names = [row["samples"] for row in rows.values() if row["samples"] is not None]
        samples = {name: (self._files / "samples" / name).read_bytes() for name in names}
        shutil.rmtree(self._files / "samples", ignore_errors=True)
        return {"rows": rows, "samples": samples, "error": error}

    def _own_span(self, *, exclusive: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._job.shares_cores else self._span(exclusive=exclusive)

    @contextlib.contextmanager
    def _span(self, *, exclusive: bool) -> Iterator[None]:
        """Record a span of work, with the machine lock if ``exclusive``; the wait for it is a span of its own."""
        unit, begun = self._job.unit, time.time()

        def record(kind: str, started: float, ended: float) -> None:
            span = Span(self._job.worker, platform.node(), kind, unit.words, unit.recipe.technique, started, ended)
            self._spans.append(span)

        with contextlib.ExitStack() as stack:
            if exclusive:
                lock = machine_lock(
                    exclusive=True, stop=self._stop, notify=lambda text: self._send(f"{unit.words}: {text}")
                )
                stack.enter_context(lock)
                record(WAITING, begun, time.time())
            started = time.time()
            try:
                yield
            finally:
                record(unit.kind, started, time.time())

    def _on_event(self, event: dict[str, Any]) -> None:
        step = {name: event[name] for name in ("stage", "done", "total", "message", "values")}
        of = f" {step['done']:.4g} of {step['total']:.4g}" if step["total"] else ""
        self._send(f"{self._job.unit.words}: {step['message'] or step['stage'] + of}", step=step)

    def _report(self, progress: Progress) -> None:
        self._stop.check()
        if "row" not in progress.values:  # the study reports rows when it receives them
            self._send(progress.message)

    def _send(self, message: str, **values: Any) -> None:
        now = time.monotonic()
        if now >= self._next_event:
            self._next_event = now + _EVERY_S
            self._worker.log_event(self._job.run, {"by": self._job.worker, "message": message, **values})


class _JobBudget(TimeBudget):
    """Times as long as the job states."""

    def __init__(self, job: ClusterJob, stop: CancelToken) -> None:
        super().__init__(job.plan, stop)
        self.rounds, self.block_s, self._share = job.rounds, job.block_s, job.share_s

    def share_s(self) -> float:
        return self._share


class _UnitExecutor(LocalExecutor):
    """Times the group of a unit; the A/A test is done once on every worker, whichever recipe comes first."""

    def time_unit(self, trials: Sequence[Trial], span: contextlib.AbstractContextManager[None]) -> None:
        """Time the group within a span."""
        done = False
        try:
            write_inputs(self._task, self._inputs, points=self._plan.points)
            self._session.claim(trials)
            self._pool.prestart(trials, replica=self._replica(trials))
            self._pool.start_baseline(self._plan.baseline(self._plan.primary))
            with span:
                self._session.running(trials)
                self._group(trials, tuple)
            done = True
        finally:
            self._session.abandon(state="waiting", reason="Stopped while it ran.")
            self._pool.close(kill=not done)

    @contextlib.contextmanager
    def _machine_lock(self, *, exclusive: bool) -> Iterator[Callable[[], bool]]:
        yield lambda: False  # the unit holds it

    def _replica(self, trials: Sequence[Trial]) -> Trial | None:
        base = self._plan.baseline(self._plan.primary)
        return base if self._floors.of(base).low is None else None


def _folder(worker: Any, fingerprint: str) -> Path:
    """Return the folder of a task on a worker; Dask removes it when the worker ends."""
    return Path(worker.local_directory) / "workbench" / fingerprint


@functools.lru_cache(maxsize=1)
def _task(packed: PackedTask) -> Task:
    import cloudpickle

    task: Task = cloudpickle.loads(packed.task)
    return task
