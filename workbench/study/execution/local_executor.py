"""Prepare recipes and time groups with worker processes of this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.checks import given
from workbench.core.errors import StudyError, TrialFailed
from workbench.core.machine import available_cores
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.finals import LEAST_S, run_finals
from workbench.study.execution.job import RunSummary
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.execution.quality import write_inputs
from workbench.study.execution.run import BUDGET, DONE, FAILED, Executor, Run, Slot, UnitEnd
from workbench.study.execution.scoring import finished_columns, quality_columns, raise_if_disk_full, validation_columns
from workbench.study.execution.task_queue import PREPARE, TaskQueue, WorkUnit
from workbench.study.execution.timing_columns import NoiseFloors
from workbench.study.execution.timing_pool import AA_REPLICA, GroupTiming, TimingPool
from workbench.study.plan.trials import Plan, Trial
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.session import RunSession, words_of
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PackedTask, PrepareClient
from workbench.study.workers.process import CancelToken, OutOfTime
from workbench.study.workers.timing_client import TimingSetup

if TYPE_CHECKING:
    from workbench.measure.resources.monitor import Monitor
    from workbench.study.workers.timing_client import EngineProcess
    from workbench.tasks.task import Task

SITE = "here"
FEW_CORES = 4
"""On so few cores preparing never overlaps with timing, also not with that of another study."""


def monitoring(monitor: Monitor | None) -> contextlib.AbstractContextManager[object]:
    """Return a context that runs a monitor, unless it is None or runs already; StudyError if it is not a Monitor."""
    if monitor is None:
        return contextlib.nullcontext()
    from workbench.measure.resources.monitor import Monitor

    if not isinstance(monitor, Monitor):
        raise StudyError(f"monitor must be a workbench.Monitor, got {given(monitor)}. Write monitor=wb.Monitor().")
    return contextlib.nullcontext() if monitor.running else monitor


class LocalExecutor(Executor):
    """Does one unit at a time with worker processes of this machine."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        session: RunSession,
        packed: PackedTask,
        files: Path,
        stop: CancelToken,
        *,
        prefix_cache: bool = True,
        monitor: Monitor | None = None,
        policy: WorkerPolicy | None = None,
        client: PrepareClient | None = None,
        budget: TimeBudget | None = None,
    ) -> None:
        self._task, self._plan, self._all, self._session = task, plan, plan, session
        self._files, self._stop, self._monitor = files, stop, monitor
        self._policy = policy or WorkerPolicy()
        self._budget = budget or TimeBudget(plan, stop)
        self._client = client or PrepareClient(files, stop, prefix_cache=prefix_cache, policy=self._policy)
        self._client.carry(packed)
        self._fingerprint = packed.fingerprint
        self._store = ArtifactStore(files)
        self._inputs = files / "inputs" / task.fingerprint
        setup = TimingSetup(files, self._inputs, self._store.artifact, packed.build, stop, self._policy)
        self._pool = TimingPool(setup)
        self._floors = NoiseFloors(files / "noise.json")
        self._ended: list[UnitEnd] = []
        self._run = Run(session, self._store, self, stop, {SITE: self._budget})

    def work(self) -> RunSummary:
        """Run the plan; errors as :meth:`workbench.study.execution.run.Run.work`."""
        return self._run.work({SITE: self._plan})

    def announce(self, plans: Mapping[str, Plan]) -> str:
        """Return a description of the plan."""
        return self._plan.words()

    def make_ready(self) -> None:
        """Start the preparing process, which imports while the inputs are written."""
        self._client.start()
        write_inputs(self._task, self._inputs, points=self._all.points)

    def idle(self) -> list[Slot]:
        """Return the one slot."""
        return [Slot(SITE)]

    def start(self, unit: WorkUnit, slot: Slot, queue: TaskQueue) -> None:
        """Do a unit; :meth:`wait` returns it."""
        self._plan = queue.plan
        mine = self._session.still_mine(unit.trials)
        if unit.kind == PREPARE:
            state = DONE if self._prepare(unit.trials[0], mine) else FAILED
            self._ended.append(UnitEnd(unit, state))
            return
        if trials := self._worth_timing(mine):
            self._group(trials, lambda: queue.following(unit))
        else:
            queue.budget.skip(primary=unit.point == queue.plan.primary)
        self._ended.append(UnitEnd(unit))

    def wait(self) -> list[UnitEnd]:
        """Return the unit that was done."""
        ended, self._ended = self._ended, []
        return ended

    def hold_finals(self) -> list[str]:
        """Time the leading rows head to head, if they are near each other and the time allows it."""
        if self._stop.remaining() < LEAST_S:
            return [f"not run, {BUDGET}: the head-to-head timing of the leading rows"]
        with self._machine_lock(exclusive=True):
            try:
                run_finals(self._all, self._session, self._pool, self._floors, self._budget)
            except OutOfTime:  # the rows keep their own timing
                return [f"not finished, {BUDGET}: the head-to-head timing of the leading rows"]
        return []

    def close(self, *, kill: bool) -> None:
        """End the processes."""
        with contextlib.ExitStack() as each:
            each.callback(self._client.close, kill=kill)
            each.callback(self._pool.close, kill=kill)

    def summary(self, **counts: Any) -> RunSummary:
        """Return the summary with the seconds of each phase."""
        phases = self._policy.phases
        return RunSummary(**counts, phases_s=phases.seconds(), covered_s=phases.covered_s())

    # preparing

    def _prepare(self, trial: Trial, mine: Sequence[Trial]) -> bool:
        """Prepare a recipe while the processes that will time it start; return False if that fails."""
        recipe, few = trial.recipe, available_cores() <= FEW_CORES
        first = [t for t in mine if t.point == self._plan.primary]
        if self._monitor is not None:
            self._monitor.mark(trial.name)
        if first:
            self._pool.start_baseline(self._plan.baseline(first[0].point))
        self._pool.prestart(first, replica=self._replica(first))
        try:
            with self._machine_lock(exclusive=False) if few else contextlib.nullcontext():
                prepared = self._client.prepare(
                    trial, self._store, self._listener(trial), batch_sizes=self._plan.batch_sizes
                )
        except TrialFailed as error:
            self._pool.end([*(t.key for t in first), AA_REPLICA])
            self._unprepared(mine, error)
            raise_if_disk_full(error, self._files)
            if not recipe.steps:
                raise StudyError(f"The float model cannot be prepared, so there is no baseline: {error}") from error
            return False
        self._budget.learn(recipe, prepared["steps"])
        return True

    def _listener(self, trial: Trial) -> Callable[[dict[str, Any]], None]:
        return self._session.following(trial.name, seconds=self._budget.prepare_s(trial.recipe))

    def _unprepared(self, trials: Sequence[Trial], error: TrialFailed) -> None:
        self._session.fail(trials, f"The variant could not be prepared: {error}")

    def _prepared(self, trial: Trial) -> dict[str, Any] | None:
        return self._store.prepared(trial, self._plan.batch_sizes)

    # timing

    def _worth_timing(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Return the prepared trials that are to be timed: all of them in a plan."""
        return trials

    def _group(self, trials: Sequence[Trial], following: Callable[[], Sequence[Trial]]) -> None:
        """Time one recipe at one point on all its backends, interleaved with the baseline; then judge quality."""
        point = trials[0].point
        with self._machine_lock(exclusive=True) as contended:
            started = time.monotonic()
            base, replica = self._plan.baseline(point), self._replica(trials)
            timed = self._timed(trials, base, replica)
            self._pool.end([AA_REPLICA])
            self._pool.prestart(self._session.missing(following()))  # nothing is timed until the next group
            if replica is not None and AA_REPLICA in timed.rounds.timed:
                self._floors.measure(base, timed.blocks(base), timed.rounds.timed[AA_REPLICA])
            for trial in trials:
                self._finish(trial, timed, base)
                self._pool.end([trial.key])
            if contended():
                self._pool.settle()  # imports would disturb the next study that times
        self._budget.grouped(time.monotonic() - started, primary=point == self._plan.primary)

    def _timed(self, trials: Sequence[Trial], base: Trial, replica: Trial | None) -> GroupTiming:
        words, budget = words_of(trials), self._budget
        limits: dict[str, Any] = {"rounds": budget.rounds, "block_s": budget.block_s, "budget_s": budget.share_s()}
        self._session.notify(f"loading {words}")
        try:
            with self._monitor.paused() if self._monitor is not None else contextlib.nullcontext():
                return self._pool.time(
                    trials,
                    base,
                    after_round=lambda n: self._session.notify(f"timing {words}: round {n}"),
                    replica=replica is not None,
                    **limits,
                )
        except TrialFailed as error:
            self._session.fail(trials, f"The baseline's process could not be timed: {error}")
            raise StudyError(f"The baseline at batch {base.point.words} cannot be timed: {error}") from error

    def _replica(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the baseline if it is timed for the first time, which includes the A/A test."""
        base = next((t for t in trials if t.baseline and t.point == self._plan.primary), None)
        return base if base is not None and self._floors.of(base).low is None else None

    def _finish(self, trial: Trial, timed: GroupTiming, base: Trial) -> None:
        """Complete one row of a group, or fail it."""
        if trial.key in timed.failed:
            self._session.fail([trial], str(timed.failed[trial.key]))
            return
        arm, reference = timed.arms[trial.key], timed.arms[base.key]
        try:
            quality = self._quality(trial, arm, reference)
            validation = self._validation(trial, arm, reference)
        except TrialFailed as error:
            self._session.fail([trial], f"The evaluation failed: {error}")
            raise_if_disk_full(error, self._files)
            return
        columns = finished_columns(
            trial, base, timed, self._floors.of(base), task=self._task, plan=self._plan, store=self._store,
            files=self._files, quality=quality, validation=validation,
        )  # fmt: skip
        self._session.complete(trial, columns)

    def _quality(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        """Return the quality columns with their notes."""
        return quality_columns(trial, arm, reference, task=self._task, session=self._session, files=self._files)

    def _validation(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        """Return the drop on the validation split with its note: that of preparing, which is already there."""
        return self._prepared_drop(trial, self._plan.baseline(trial.point))

    def _prepared_drop(self, trial: Trial, base: Trial) -> dict[str, Any]:
        return validation_columns(self._prepared(trial), self._prepared(base))

    @contextlib.contextmanager
    def _machine_lock(self, *, exclusive: bool) -> Iterator[Callable[[], bool]]:
        """Hold the machine lock; the wait for it is a phase of its own."""
        with contextlib.ExitStack() as stack:
            with self._policy.phases.during("waiting"):
                lock = machine_lock(exclusive=exclusive, stop=self._stop, notify=self._session.notify)
                contended = stack.enter_context(lock)
            yield contended
