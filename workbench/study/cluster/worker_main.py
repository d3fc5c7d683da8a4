"""On a worker: say what it is, keep parcels, and do one unit at a time with the processes of a study.

The worker runs the unit as a small study of its own, in a folder and a scratch database that go with the worker: it
never reaches the study's database, which for SQLite could not work from another machine, and would let a worker that
was believed lost write rows behind the study's back. Rows and raw samples go back as the task's result.
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

from workbench.core.errors import StudyError, TrialFailed
from workbench.core.machine import this_site
from workbench.core.processes import allowed_cores
from workbench.core.progress import Progress
from workbench.study.cluster.blobs import Blob, artifact_blob, held_blobs, note, read_task, write_blob
from workbench.study.cluster.job import WAITING, ClusterJob, JobResult, Span
from workbench.study.cluster.tasks import PREPARE
from workbench.study.cluster.worker_info import WorkerInfo
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.executor import Run
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.plan.trials import Trial
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.database import Store
from workbench.study.storage.session import RunSession
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PrepareClient, Shipment
from workbench.study.workers.process import CancelToken, WorkerError

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_EVERY_S = 0.5
_UNIT = "unit"
_ACTIVE: dict[str, set[CancelToken]] = {}
_ONE = threading.Lock()


def probe(backends: Sequence[str], fingerprint: str, dask_worker: Any) -> WorkerInfo:
    """Say what this worker is, which of ``backends`` run here, and which parcels of a task lie here."""
    from workbench.engine.backends import get_backend

    found: dict[str, str | None] = {}
    for name in backends:
        try:
            status = get_backend(name).status()
            found[name] = None if status.available else f"{status.reason}. {status.how or ''}".strip()
        except Exception as error:  # noqa: BLE001 - a backend of another package may fail in any way
            found[name] = f"{type(error).__name__}: {error}"
    return WorkerInfo(
        site=this_site(),
        python=platform.python_version(),
        host=platform.node(),
        cores=frozenset(allowed_cores()),
        backends=found,
        held_blobs=held_blobs(_folder(dask_worker, fingerprint)),
    )


def keep(blob: Blob, fingerprint: str, dask_worker: Any) -> None:
    """Write a parcel that the study has sent into the folder of its task."""
    write_blob(blob, _folder(dask_worker, fingerprint))


def halt(run: str) -> int:
    """Ask the units of a run to stop, and return how many are still at it."""
    stops = list(_ACTIVE.get(run, ()))
    for stop in stops:
        stop.set()
    return len(stops)


def do(order: ClusterJob) -> JobResult:
    """Do a unit; called as a task of Dask.

    Raises
    ------
    Cancelled, OutOfTime
        When the study asked for it, is gone, or the budget ended.
    """
    from distributed import get_worker

    worker = get_worker()
    stop = _TaskStop(worker, str(worker.get_current_task()), order.seconds)
    with _ONE:  # a worker with several threads, or with more of the resource, still does one at a time
        _ACTIVE.setdefault(order.run, set()).add(stop)
        try:
            return _Work(order, worker, stop).outcome()
        finally:
            _ACTIVE[order.run].discard(stop)


class _TaskStop(CancelToken):
    """Also stops when Dask has let the task go: it was cancelled there, or the study's process is gone."""

    def __init__(self, worker: Any, key: str, seconds: float) -> None:
        super().__init__(None if seconds == float("inf") else time.monotonic() + seconds)
        self._worker, self._key = worker, key

    @property
    def requested(self) -> bool:
        task = self._worker.state.tasks.get(self._key)
        return super().requested or task is None or task.state == "cancelled"


class _Work:
    def __init__(self, order: ClusterJob, worker: Any, stop: CancelToken) -> None:
        self._order, self._worker, self._stop = order, worker, stop
        self._files = _folder(worker, order.fingerprint)
        self._policy = WorkerPolicy(order.stall_s)
        self._spans: list[Span] = []
        self._next = 0.0

    def outcome(self) -> JobResult:
        self._stop.check()
        # loading a library takes the cores of another worker's timing as much as a training does
        with self._span(exclusive=True) if self._order.shares else contextlib.nullcontext():
            shipment = read_task(self._files, self._order.fingerprint)
            made = self._prepared(shipment) if self._order.unit.kind == PREPARE else self._timed(shipment)
        return JobResult(**made, spans=tuple(self._spans))

    def _prepared(self, shipment: Shipment) -> dict[str, Any]:
        unit = self._order.unit
        shelf, trial = ArtifactStore(self._files), unit.trials[0]
        more: dict[str, Any] = {"prefix_cache": self._order.prefix_cache, "policy": self._policy}
        host = PrepareClient(shipment, self._files, self._stop, **more)
        done = False
        try:
            host.start()
            with self._own_span(exclusive=self._order.times):
                started = time.monotonic()
                sizes = self._order.batch_sizes
                answer = host.prepare(unit.recipe, shelf.target(trial), self._follow, batch_sizes=sizes)
                answer["prepare_s"] = time.monotonic() - started
            done = True
        except TrialFailed as error:  # a process that ended may have more memory elsewhere; a recipe stays as it is
            return {"error": str(error), "refused": isinstance(error, WorkerError)}
        finally:
            host.close(kill=not done)
        shelf.keep(trial, answer)
        blob = artifact_blob(self._files, trial.artifact_key)
        note(blob, self._files)
        return {"blob": blob}

    def _timed(self, shipment: Shipment) -> dict[str, Any]:
        order, error = self._order, None
        with tempfile.TemporaryDirectory(dir=self._files) as scratch:
            store = Store(f"sqlite:///{scratch}/unit.db")
            try:
                more: dict[str, Any] = {"quality_drop": 0.0, "progress": self._report}
                with RunSession(store, _UNIT, order.plan, order.rows, **more) as ledger:
                    run = _UnitRun(_task(shipment), order, ledger, shipment, self._files, self._stop, self._policy)
                    try:
                        run.time_with(self._own_span(exclusive=True))
                    except StudyError as found:
                        error = str(found)
                    rows = {trial.key: ledger.row(trial) for trial in order.unit.trials}
            finally:
                store.close()
        names = [row["samples"] for row in rows.values() if row["samples"] is not None]
        samples = {name: (self._files / "samples" / name).read_bytes() for name in names}
        shutil.rmtree(self._files / "samples", ignore_errors=True)
        return {"rows": rows, "samples": samples, "error": error}

    def _own_span(self, *, exclusive: bool) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._order.shares else self._span(exclusive=exclusive)

    def _span(self, *, exclusive: bool) -> _Spanning:
        return _Spanning(self._order, self._spans, self._stop, self._tell if exclusive else None)

    def _follow(self, event: dict[str, Any]) -> None:
        step = {name: event[name] for name in ("stage", "done", "total", "message", "values")}
        of = f" {step['done']:.4g} of {step['total']:.4g}" if step["total"] else ""
        self._tell(f"{self._order.unit.words}: {step['message'] or step['stage'] + of}", step=step)

    def _report(self, progress: Progress) -> None:
        self._stop.check()
        if "row" not in progress.values:  # rows are told by the study, when it has them
            self._tell(progress.message)

    def _tell(self, message: str, **values: Any) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            self._worker.log_event(self._order.run, {"by": self._order.worker, "message": message, **values})


class _Spanning:
    """A span of work, alone on the host where asked; what it waited for that is a span of its own."""

    def __init__(self, order: ClusterJob, spans: list[Span], stop: CancelToken, tell: Any) -> None:
        self._span = functools.partial(Span, order.worker, platform.node())
        self._unit, self._spans, self._tell = order.unit, spans, tell
        self._alone: Any = None if tell is None else machine_lock(exclusive=True, stop=stop, say=self._waiting)
        self._asked = self._started = time.time()

    def __enter__(self) -> None:
        self._asked = time.time()
        if self._alone is not None:
            self._alone.__enter__()
        self._started = time.time()
        if self._alone is not None:
            self._note(WAITING, self._asked, self._started)

    def __exit__(self, *failure: Any) -> None:
        self._note(self._unit.kind, self._started, time.time())
        if self._alone is not None:
            self._alone.__exit__(*failure)

    def _note(self, kind: str, started: float, ended: float) -> None:
        self._spans.append(self._span(kind, self._unit.words, self._unit.recipe.technique, started, ended))

    def _waiting(self, words: str) -> None:
        self._tell(f"{self._unit.words}: {words}")


class _UnitPacing(TimeBudget):
    """Times as long as the study has said."""

    def __init__(self, order: ClusterJob, stop: CancelToken) -> None:
        super().__init__(order.plan, stop)
        self.rounds, self.block_s, self._share = order.rounds, order.block_s, order.share_s

    def share_s(self) -> float:
        return self._share


class _UnitRun(Run):
    """Times the unit's group; the noise floor is measured once on every worker, whichever recipe comes first."""

    def __init__(
        self,
        task: Task,
        order: ClusterJob,
        ledger: RunSession,
        shipment: Shipment,
        files: Path,
        stop: CancelToken,
        policy: WorkerPolicy,
    ) -> None:
        super().__init__(task, order.plan, ledger, shipment, files, stop, policy=policy)
        self._budget = _UnitPacing(order, stop)
        self._unit = order.unit

    def time_with(self, span: contextlib.AbstractContextManager[None]) -> None:
        """Time the group within a span."""
        from workbench.study.execution.quality import write_inputs

        trials, whole = list(self._unit.trials), False
        try:
            write_inputs(self._task, self._files / "inputs" / self._task.fingerprint, points=self._plan.points)
            self._ledger.claim(trials)
            self._pool.prestart(trials, replica=self._replica(trials))
            self._pool.start_baseline(self._plan.baseline(self._plan.primary))
            with span:
                self._group(trials, ())
            whole = True
        finally:
            self._ledger.abandon(state="waiting", reason="Stopped while it ran.")
            self._pool.close(kill=not whole)

    @contextlib.contextmanager
    def _machine_lock(self, *, exclusive: bool) -> Iterator[Callable[[], bool]]:
        """The unit has it already."""
        yield lambda: False

    def _replica(self, trials: Sequence[Trial]) -> Trial | None:
        base = self._plan.baseline(self._plan.primary)
        return base if self._noise.of(base).low is None else None


def _folder(worker: Any, fingerprint: str) -> Path:
    """Return where a worker keeps what belongs to a task; Dask removes it when the worker ends."""
    return Path(worker.local_directory) / "workbench" / fingerprint


@functools.lru_cache(maxsize=1)
def _task(shipment: Shipment) -> Task:
    import cloudpickle

    found: Task = cloudpickle.loads(shipment.task)
    return found
