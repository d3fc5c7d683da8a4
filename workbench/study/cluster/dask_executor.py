"""Do the units of a run on the workers of a Dask cluster.

The study places the units itself: comparisons stay on one kind of machine, new workers are probed first, and an
artifact is sent to a worker once. Dask transports tasks and data, holds the resource, and reports lost workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from workbench.core.errors import StudyError
from workbench.core.files import atomic_write
from workbench.measure.comparison.latency_cost import latency_cost
from workbench.study.cluster.blobs import TASK, Blob, artifact_blob, write_blob
from workbench.study.cluster.connection import ClusterConnection, ClusterWorkers
from workbench.study.cluster.job import ClusterJob, ClusterSummary, JobResult, Span
from workbench.study.cluster.worker_info import ClusterWorker, describe_kinds, shares_cores
from workbench.study.execution.run import FAILED, RETRY, Executor, Slot, UnitEnd
from workbench.study.execution.task_queue import PREPARE, TaskQueue, WorkUnit
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.schema import TrialRow, judged_on
from workbench.study.storage.session import RunSession
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PackedTask
from workbench.study.workers.process import CancelToken

_POLL_S = 0.2


@dataclass
class RunningUnit:
    """A unit that runs on a worker."""

    unit: WorkUnit
    worker: ClusterWorker
    future: Any
    queue: TaskQueue


class DaskExecutor(Executor):
    """Does one unit at a time on each worker."""

    def __init__(
        self,
        workers: ClusterWorkers,
        connection: ClusterConnection,
        session: RunSession,
        packed: PackedTask,
        files: Path,
        stop: CancelToken,
        *,
        prefix_cache: bool,
        policy: WorkerPolicy,
    ) -> None:
        self._workers, self._connection, self._session = workers, connection, session
        self._files, self._stop, self._prefix_cache, self._policy = files, stop, prefix_cache, policy
        self._fingerprint = packed.fingerprint
        self._task = Blob.of(TASK, {f"{TASK}/whole": packed.task, f"{TASK}/build": packed.build})
        self._blobs: dict[str, Blob] = {}
        self._machines = tuple(describe_kinds(workers.members))
        self._running: dict[str, RunningUnit] = {}
        self._failures: dict[WorkUnit, list[tuple[str, str]]] = {}
        self._ended: list[UnitEnd] = []
        self._spans: list[Span] = []
        self._submitted = 0

    def announce(self, plans: Mapping[str, Plan]) -> str:
        dashboard = self._connection.dashboard
        where = f"dashboard {dashboard}" if dashboard else self._connection.address
        return "; ".join((next(iter(plans.values())).words(), *self._machines, where))

    def make_ready(self) -> None:
        """Do nothing: workers get their inputs with the units."""

    def idle(self) -> list[Slot]:
        """Look for new and lost workers, and return the idle ones."""
        lost, refused = self._workers.look()
        for worker in lost:
            self._lose(worker, "ended")
        for words in refused:
            self._session.notify(f"not taken: {words}")
        busy = {running.worker.address for running in self._running.values()}
        idle = [worker for worker in self._workers.members if worker.address not in busy]
        return [Slot(worker.site.fingerprint, worker.address, worker.held_blobs) for worker in idle]

    def accepts(self, unit: WorkUnit, slot: Slot) -> bool:
        """Return False on a worker that has failed the unit, and for an artifact that another worker makes."""
        if any(address == slot.address for address, _ in self._failures.get(unit, ())):
            return False
        units = [running.unit for running in self._running.values()]
        return unit.kind != PREPARE or not any(u.kind == PREPARE and u.artifact_key == unit.artifact_key for u in units)

    def start(self, unit: WorkUnit, slot: Slot, queue: TaskQueue) -> None:
        """Send a unit to a worker with the blobs that the worker lacks."""
        worker = next(worker for worker in self._workers.members if worker.address == slot.address)
        self._session.notify(f"{unit.words}: sent to {worker.words}")
        try:
            for blob in self._needed_blobs(unit, queue.plan):
                self._connection.send(worker, blob, self._fingerprint)
        except StudyError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a broken connection raises
            self._lose(worker, f"could not be reached ({type(error).__name__}: {error})")
            self._ended.append(UnitEnd(unit, RETRY))
            return
        self._submitted += 1
        future = self._connection.submit(worker, self._job(unit, worker, queue), self._submitted)
        self._running[future.key] = RunningUnit(unit, worker, future, queue)

    def wait(self) -> list[UnitEnd]:
        """Handle one event of the workers, and return the units that have ended."""
        with contextlib.suppress(Empty):
            kind, event = self._connection.events.get(timeout=_POLL_S)
            if kind == "progress":
                step = {"step": event["step"]} if "step" in event else {}
                self._session.notify(f"{event['message']} (worker {event['by']})", **step)
            elif event.key in self._running:
                self._finish(self._running.pop(event.key))
        ended, self._ended = self._ended, []
        return ended

    def deserted(self, sites: Iterable[str]) -> list[str]:
        return self._workers.deserted(sites)

    def close(self, *, kill: bool) -> None:
        if kill:  # otherwise none runs
            self._connection.halt(running.future for running in self._running.values())

    def summary(self, **counts: Any) -> ClusterSummary:
        dashboard, transfers = self._connection.dashboard, tuple(self._connection.transfers)
        return ClusterSummary(
            **counts, machines=self._machines, dashboard=dashboard, spans=tuple(self._spans), transfers=transfers
        )

    # jobs

    def _needed_blobs(self, unit: WorkUnit, plan: Plan) -> list[Blob]:
        """Return the task, and for a timing the artifacts of the recipe and of the baseline."""
        keys = (plan.baseline(plan.primary).artifact_key, unit.artifact_key) if unit.kind != PREPARE else ()
        for key in keys:
            if key not in self._blobs:
                self._blobs[key] = artifact_blob(self._files, key)
        return [self._task, *(self._blobs[key] for key in dict.fromkeys(keys))]

    def _job(self, unit: WorkUnit, worker: ClusterWorker, queue: TaskQueue) -> ClusterJob:
        plan, budget, point = queue.plan, queue.budget, unit.point or queue.plan.primary
        base = plan.baseline(point)
        trials = tuple(dict.fromkeys((base, *unit.trials)))
        recipes = tuple(dict.fromkeys((base.recipe, unit.recipe)))
        timing = unit.kind != PREPARE
        return ClusterJob(
            run=self._connection.run, unit=unit, plan=Plan(trials, recipes, plan.backends, point, ()),
            rows=self._related_rows(unit, base) if timing else {}, fingerprint=self._fingerprint,
            batch_sizes=plan.batch_sizes, rounds=budget.rounds, block_s=budget.block_s, share_s=budget.share_s(),
            seconds=self._stop.remaining(), prefix_cache=self._prefix_cache, stall_s=self._policy.stall_s,
            worker=worker.name, shares_cores=shares_cores(worker, self._workers.members),
            times=timing or latency_cost(unit.recipe) is not None,
        )  # fmt: skip

    def _related_rows(self, unit: WorkUnit, base: Trial) -> dict[str, TrialRow]:
        """Return the rows of a unit, the baseline's, and those with the same quality."""
        judged = {trial.judged_on for trial in unit.trials}
        alike = {
            row["trial_key"]: row
            for row in self._session.complete_rows()
            if row["fingerprint"] == unit.site and judged_on(row) in judged
        }
        return {**alike, **{trial.key: self._session.row(trial) for trial in (base, *unit.trials)}}

    # results

    def _finish(self, running: RunningUnit) -> None:
        result, failure = self._connection.result(running.future, running.worker)
        if result is None:
            self._stop.check()  # a cancelled unit ends like one that failed
            self._retry(running, failure)
            return
        self._spans += result.spans
        if result.final:
            self._give_up(running.unit, f"The variant could not be prepared: {result.error}")
        elif result.error is not None:
            self._retry(running, result.error)
        else:
            if result.blob is not None:
                write_blob(result.blob, self._files)
                self._blobs[result.blob.name] = result.blob
                running.worker.held_blobs[result.blob.name] = result.blob.digest
            else:
                self._write_rows(running, result)
            self._ended.append(UnitEnd(running.unit))

    def _write_rows(self, running: RunningUnit, result: JobResult) -> None:
        """Write the rows of a group, apart from trials that this run no longer holds."""
        for name, content in result.samples.items():
            with atomic_write(self._files / "samples" / name) as path:
                path.write_bytes(content)
        for trial in self._session.still_mine(running.unit.trials):
            row: dict[str, Any] = dict(result.rows[trial.key])
            if row.pop("state") == "complete":
                notes = {**row["notes"], "machine": f"Timed by {running.worker.words}."}
                self._session.complete(trial, {**row, "notes": notes})
            else:
                self._session.fail([trial], str(row["error"] or "Its worker gave no result."))
                if trial.baseline:
                    raise StudyError(f"The baseline at batch {trial.point.words} cannot be timed: {row['error']}")
        seconds = sum(span.ended - span.started for span in result.spans if span.kind == running.unit.kind)
        running.queue.budget.grouped(seconds, primary=running.unit.point == running.queue.plan.primary)

    def _retry(self, running: RunningUnit, reason: str) -> None:
        """Repeat a unit on another worker; give it up after ``Cluster.tries``, or if no other worker is left."""
        unit, failures = running.unit, self._failures.setdefault(running.unit, [])
        failures.append((running.worker.address, f"{running.worker.words} {reason}"))
        tried, living = {address for address, _ in failures}, self._workers.addresses(unit.site)
        if len(failures) >= self._connection.config.tries or (living and living <= tried):
            count = f"{len(failures)} tries" if len(failures) > 1 else "one try"
            self._give_up(unit, f"Given up after {count}: {'; '.join(words for _, words in failures)}.")
        else:
            self._ended.append(UnitEnd(unit, RETRY))
            self._session.notify(f"{unit.words}: {failures[-1][1]}; it is done again elsewhere")

    def _give_up(self, unit: WorkUnit, reason: str) -> None:
        self._ended.append(UnitEnd(unit, FAILED))
        self._session.fail(self._session.still_mine(unit.trials), reason)
        if not unit.recipe.steps:
            raise StudyError(f"{unit.words} failed, so there is no baseline: {reason}")

    def _lose(self, worker: ClusterWorker, why: str) -> None:
        self._workers.drop(worker)
        self._session.notify(f"{worker.words} is gone: it {why}")
        for key in [key for key, running in self._running.items() if running.worker is worker]:
            running = self._running.pop(key)
            self._connection.cancel([running.future])
            self._retry(running, f"{why} while it ran this")
