"""One run of a study: prepare each recipe, time its group, judge its quality, keep every finished row."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.compress.recipe import Recipe
from workbench.core.checks import given
from workbench.core.errors import Cancelled, StudyError, TrialFailed, WorkbenchError
from workbench.core.machine import available_cores
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.finals import LEAST_S, run_finals
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.execution.quality import write_inputs
from workbench.study.execution.scoring import Finishing
from workbench.study.execution.summary import RunSummary
from workbench.study.execution.timing_columns import NoiseFloors
from workbench.study.execution.timing_pool import AA_REPLICA, TimingPool, TimingSetup
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.ranking import pareto_rows
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.session import RunSession, words_of
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PrepareClient, Shipment
from workbench.study.workers.process import CancelToken, OutOfTime

if TYPE_CHECKING:
    from workbench.measure.resources.monitor import Monitor
    from workbench.tasks.task import Task

BUDGET = "the time budget does not allow it"
_FEW_CORES = 4
"""On so few cores, preparing never overlaps with timing, that of another study neither."""


def watching(monitor: Monitor | None) -> contextlib.AbstractContextManager[object]:
    """Return what runs a monitor in a ``with`` block: nothing where there is none, or it runs already.

    Raises
    ------
    StudyError
        If it is no Monitor.
    """
    if monitor is None:
        return contextlib.nullcontext()
    from workbench.measure.resources.monitor import Monitor

    if not isinstance(monitor, Monitor):
        raise StudyError(f"monitor must be a workbench.Monitor, got {given(monitor)}. Write monitor=wb.Monitor().")
    return contextlib.nullcontext() if monitor.running else monitor


class Run(Finishing):
    """Does the trials of a plan that are not complete; see :meth:`work`."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        ledger: RunSession,
        shipment: Shipment,
        files: Path,
        stop: CancelToken,
        *,
        prefix_cache: bool = True,
        monitor: Monitor | None = None,
        policy: WorkerPolicy | None = None,
        host: PrepareClient | None = None,
    ) -> None:
        self._policy = policy or WorkerPolicy()
        self._monitor = monitor
        self._task, self._plan, self._ledger, self._files, self._stop = task, plan, ledger, files, stop
        self._all = plan
        self._budget = TimeBudget(plan, stop)
        self._host = host or PrepareClient(None, files, stop, prefix_cache=prefix_cache, policy=self._policy)
        self._host.carry(shipment)
        self._shelf = ArtifactStore(files)
        inputs = files / "inputs" / task.fingerprint
        self._pool = TimingPool(TimingSetup(files, inputs, self._shelf.artifact, shipment.build, stop, self._policy))
        self._noise = NoiseFloors(files / "noise.json")
        self._cut: list[str] = []

    def work(self) -> RunSummary:
        """Do everything that can be done; a cancel or the end of the budget leaves finished rows as they are.

        Raises
        ------
        StudyError
            If the baseline cannot be prepared or timed: nothing could be compared with it; or if the disk is full or
            the database cannot be used: nothing more could be kept.
        KeyboardInterrupt
            Passed on, after the children are ended and the running trials are marked.
        """
        started = time.monotonic()
        state, reason, whole = "cancelled", "Cancelled while it ran.", False
        try:
            self._ledger.say(self._plan_words(), plan=self._ledger.rows())
            self._pass()
            while self._wait_for_others():
                self._pass()
            self._finals()
            whole = True
        except OutOfTime:
            state, reason = "waiting", "Stopped while it ran: the time budget was used up."
            self._note_cut(self._ledger.missing(self._plan.trials))
        except Cancelled:
            pass
        except WorkbenchError as error:
            state, reason = "failed", f"The run stopped while it ran: {error}"
            if isinstance(error, StudyError):
                raise
            raise StudyError(f"The run stopped: {error} What is complete is kept.") from error
        finally:
            self._leave(state, reason, kill=not whole)
        phases = self._policy.phases
        return RunSummary(
            **self._ledger.counts(),
            cancelled=not whole and state == "cancelled",
            seconds=time.monotonic() - started,
            cut=tuple(self._cut),
            phases_s=phases.seconds(),
            covered_s=phases.covered_s(),
        )

    def _finals(self) -> None:
        """Time the leading rows head to head, if they are near each other and the time allows it."""
        if self._stop.remaining() < LEAST_S:
            self._cut.append(f"not run, {BUDGET}: the head-to-head timing of the leading rows")
            return
        with self._machine_lock(exclusive=True):
            try:
                run_finals(self._all, self._ledger, self._pool, self._noise, self._budget, say=self._ledger.say)
            except OutOfTime:  # the rows keep their own timing
                self._cut.append(f"not finished, {BUDGET}: the head-to-head timing of the leading rows")

    def _plan_words(self) -> str:
        """Return what will be done, in words."""
        return self._plan.words()

    def _leave(self, state: str, reason: str, *, kill: bool) -> None:
        """Give free what was running and end the processes: each of these, also where another one fails."""
        with contextlib.ExitStack() as each:
            each.callback(self._host.close, kill=kill)
            each.callback(self._pool.close, kill=kill)
            each.callback(self._ledger.abandon, state=state, reason=reason)

    @contextlib.contextmanager
    def _machine_lock(self, *, exclusive: bool) -> Iterator[Callable[[], bool]]:
        """Have this machine's turn; what it waited for is a phase of its own."""
        with contextlib.ExitStack() as stack:
            with self._policy.phases.during("waiting"):
                wanted = stack.enter_context(machine_lock(exclusive=exclusive, stop=self._stop, say=self._ledger.say))
            yield wanted

    def _pass(self) -> None:
        """Every recipe at the primary point first, so that the main question is answered early."""
        if self._ledger.missing(self._plan.trials):
            self._host.start()  # imports while the inputs are written
            write_inputs(self._task, self._files / "inputs" / self._task.fingerprint, points=self._plan.points)
        ready = []
        for position, recipe in enumerate(self._plan.recipes):
            if self._first(recipe, self._after(position)):
                ready.append(recipe)
        primary = [row for t, row in self._ledger.items() if t.point == self._plan.primary]
        front = pareto_rows(primary, x="latency_ms_rel", y="quality")
        best = self._ledger.best()
        rest = self._plan.rest(ready, tiers=({best["recipe_id"]} if best else (), {row["recipe_id"] for row in front}))
        for position, (recipe, point) in enumerate(rest):
            group = self._ledger.still_mine(self._plan.group(recipe, point))
            if group and not self._budget.group_fits():
                self._leave_out(group, primary=False)
            elif group:
                self._group(group, [t for r, p in rest[position + 1 : position + 2] for t in self._plan.group(r, p)])

    def _after(self, position: int) -> list[Trial]:
        """Return the group that is timed after the recipe at a position was at the primary point."""
        recipes = self._plan.recipes
        if position + 1 < len(recipes):
            return self._plan.group(recipes[position + 1], self._plan.primary)
        return self._plan.group(recipes[0], self._plan.others[0]) if self._plan.others else []

    def _first(self, recipe: Recipe, following: Sequence[Trial]) -> bool:
        """Claim a recipe, prepare it, and time it at the primary point; False where nothing more is to do."""
        mine = self._ledger.claim(self._plan.of(recipe))
        if not mine:
            self._budget.prepared(recipe)
            return False
        if not self._budget.fits(recipe, prepared=self._prepared(mine[0]) is not None):
            self._leave_out(mine, primary=True)
            return False
        first = [t for t in mine if t.point == self._plan.primary]
        if self._prepared(mine[0]) is None and not self._prepare(mine, first):
            return False
        self._budget.prepared(recipe)
        worth = self._worth_timing(first)
        if worth:
            self._group(worth, following)
        return True

    def _worth_timing(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Return those of the prepared trials that are to be timed: in a plan, all."""
        return trials

    def _prepare(self, mine: Sequence[Trial], first: Sequence[Trial]) -> bool:
        trial, recipe = mine[0], mine[0].recipe
        self._ledger.running(first or mine[:1])
        if self._monitor is not None:
            self._monitor.mark(trial.name)
        if first:
            self._pool.start_baseline(self._plan.baseline(first[0].point))
        self._pool.prestart(first, replica=self._replica(first))
        try:
            listen = self._listener(trial)
            sizes = self._plan.batch_sizes
            few = available_cores() <= _FEW_CORES
            with self._machine_lock(exclusive=False) if few else contextlib.nullcontext():
                started = time.monotonic()
                answer = self._host.prepare(recipe, self._shelf.target(trial), listen, batch_sizes=sizes)
        except TrialFailed as error:
            self._pool.end([*(t.key for t in first), AA_REPLICA])
            self._unprepared(mine, error)
            self._budget.prepared(recipe)
            self._stop_if_full(error)
            if not recipe.steps:
                raise StudyError(f"The float model cannot be prepared, so there is no baseline: {error}") from error
            return False
        answer["prepare_s"] = time.monotonic() - started
        self._shelf.keep(trial, answer)
        self._budget.learn(recipe, answer["steps"])
        return True

    def _listener(self, trial: Trial) -> Callable[[dict[str, Any]], None]:
        """Return what gets the progress of a trial's preparation."""
        return self._ledger.following(trial.name, seconds=self._budget.prepare_s(trial.recipe))

    def _unprepared(self, trials: Sequence[Trial], error: TrialFailed) -> None:
        """Note trials whose preparation did not end in a variant."""
        self._ledger.fail(trials, f"The variant could not be prepared: {error}")

    def _group(self, trials: Sequence[Trial], following: Sequence[Trial]) -> None:
        """Time one recipe at one point on all its backends, in turns with the baseline; then judge quality."""
        point = trials[0].point
        base, replica = self._plan.baseline(point), self._replica(trials)
        self._ledger.running(trials)
        with self._machine_lock(exclusive=True) as wanted:
            started = time.monotonic()
            self._time(trials, base, replica, following)
            if wanted():
                self._pool.settle()  # what imports would disturb whoever times next
        self._budget.grouped(time.monotonic() - started, primary=point == self._plan.primary)

    def _time(self, trials: Sequence[Trial], base: Trial, replica: Trial | None, following: Sequence[Trial]) -> None:
        self._ledger.say(f"loading {words_of(trials)}")
        try:
            with self._monitor.paused() if self._monitor is not None else contextlib.nullcontext():
                timed = self._pool.time(
                    trials,
                    base,
                    replica=replica is not None,
                    rounds=self._budget.rounds,
                    block_s=self._budget.block_s,
                    budget_s=self._budget.share_s(),
                    after_round=lambda n: self._ledger.say(f"timing {words_of(trials)}: round {n}"),
                )
        except TrialFailed as error:
            self._ledger.fail(trials, f"The baseline's process could not be timed: {error}")
            raise StudyError(f"The baseline at batch {base.point.words} cannot be timed: {error}") from error
        self._pool.end([AA_REPLICA])
        self._pool.prestart(self._ledger.missing(following))  # nothing is timed until the next group
        if replica is not None and AA_REPLICA in timed.rounds.timed:
            self._noise.measure(base, timed.rounds.timed[timed.arms[base.key].name], timed.rounds.timed[AA_REPLICA])
        for trial in trials:
            self._finish(trial, timed, base)
            self._pool.end([trial.key])

    def _replica(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the baseline trial where it is timed for the first time: the noise floor is measured with it."""
        base = next((t for t in trials if t.baseline and t.point == self._plan.primary), None)
        return base if base is not None and self._noise.of(base).low is None else None

    def _wait_for_others(self) -> bool:
        """Wait while other runs work on trials of this plan; True where something is left that another pass can do."""
        return self._ledger.wait_for_others(self._plan.trials, self._stop, look_s=1.0)

    def _leave_out(self, trials: Sequence[Trial], *, primary: bool) -> None:
        self._budget.skip(primary=primary)
        self._budget.prepared(trials[0].recipe)
        self._note_cut(trials)
        self._ledger.cut(trials, BUDGET)

    def _note_cut(self, trials: Sequence[Trial]) -> None:
        for recipe in dict.fromkeys(t.recipe for t in trials):
            self._cut.append(f"not run, {BUDGET}: {words_of([t for t in trials if t.recipe == recipe])}")
