"""The run loop: claim trials, start the most useful unit on a free slot, and leave out what the budget does not allow.

An :class:`Executor` does the units: :class:`workbench.study.execution.local_executor.LocalExecutor` with processes of
this machine, :class:`workbench.study.cluster.dask_executor.DaskExecutor` on the workers of a Dask cluster.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.core.errors import Cancelled, StudyError, WorkbenchError
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.job import RunSummary
from workbench.study.execution.task_queue import PREPARE, TaskQueue, WorkUnit
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.ranking import pareto_rows
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.session import RunSession, words_of
from workbench.study.workers.process import CancelToken, OutOfTime

BUDGET = "the time budget does not allow it"
DONE, RETRY, FAILED = "done", "retry", "failed"
_LOOK_S = 1.0


@dataclass(frozen=True)
class Slot:
    """A place that does one unit at a time: this machine, or a cluster's worker with the artifacts in ``near``."""

    site: str
    address: str = ""
    near: Collection[str] = ()


@dataclass(frozen=True)
class UnitEnd:
    """A unit that has ended: done, failed for good, or to be tried again on another slot."""

    unit: WorkUnit
    state: str = DONE


class Executor(abc.ABC):
    """Does the units of a run, and writes their rows into its session."""

    @abc.abstractmethod
    def announce(self, plans: Mapping[str, Plan]) -> str:
        """Return a description of the plans."""

    @abc.abstractmethod
    def idle(self) -> list[Slot]:
        """Return the free slots."""

    @abc.abstractmethod
    def start(self, unit: WorkUnit, slot: Slot, queue: TaskQueue) -> None:
        """Start a unit of a queue; its trials are claimed."""

    @abc.abstractmethod
    def wait(self) -> list[UnitEnd]:
        """Return the units that have ended, after a short wait."""

    @abc.abstractmethod
    def close(self, *, kill: bool) -> None:
        """End the processes; ``kill`` does not wait for their work."""

    @abc.abstractmethod
    def summary(self, **counts: Any) -> RunSummary:
        """Return the summary of the run."""

    @abc.abstractmethod
    def make_ready(self) -> None:
        """Get ready for the first unit."""

    def accepts(self, unit: WorkUnit, slot: Slot) -> bool:
        """Return False if a unit must not start on a slot now."""
        return True

    def deserted(self, sites: Iterable[str]) -> list[str]:
        """Return the sites that have lost all their slots for good."""
        return []

    def hold_finals(self) -> list[str]:
        """Time the leading rows head to head; return lines on what was left out."""
        return []


class Run:
    """Does the open trials of plans, one plan for each kind of machine; ``cut`` lists what was left out."""

    def __init__(
        self,
        session: RunSession,
        store: ArtifactStore,
        executor: Executor,
        stop: CancelToken,
        budgets: Mapping[str, TimeBudget],
    ) -> None:
        self.cut: list[str] = []
        self._session, self._store, self._executor, self._stop = session, store, executor, stop
        self._budgets = budgets
        self._plans: Mapping[str, Plan] = {}
        self._claimed: set[tuple[str, Recipe]] = set()
        self._made: set[Recipe] = set()

    def work(self, plans: Mapping[str, Plan], do: Callable[[], None] | None = None) -> RunSummary:
        """Run the plans, or call ``do``, which runs parts of them by :meth:`do`. Finished rows stay after a cancel.

        Raises StudyError if the baseline cannot be prepared or timed, the disk is full, or the database fails.
        """
        started = time.monotonic()
        state, reason, whole = "cancelled", "Cancelled while it ran.", False
        self._plans = plans
        try:
            self._session.notify(self._executor.announce(plans), plan=self._session.rows())
            (do or functools.partial(self.do, plans))()
            self.cut += self._executor.hold_finals()
            whole = True
        except OutOfTime:
            state, reason = "waiting", "Stopped while it ran: the time budget was used up."
            self._note_cut(self._session.missing(self._trials()), BUDGET)
        except Cancelled:
            pass
        except WorkbenchError as error:
            state, reason = "failed", f"The run stopped while it ran: {error}"
            if isinstance(error, StudyError):
                raise
            raise StudyError(f"The run stopped: {error} What is complete is kept.") from error
        finally:
            self.leave(state, reason, kill=not whole)
        return self._executor.summary(
            **self._session.counts(),
            cancelled=not whole and state == "cancelled",
            seconds=time.monotonic() - started,
            cut=tuple(self.cut),
        )

    def leave(self, state: str, reason: str, *, kill: bool) -> None:
        """End the processes and release the trials; each of these even if the other one fails."""
        with contextlib.ExitStack() as each:
            each.callback(self._session.abandon, state=state, reason=reason)
            each.callback(self._executor.close, kill=kill)

    def do(self, plans: Mapping[str, Plan]) -> None:
        """Do the trials of plans, again after waiting for other runs that work on some of them."""
        self._plans = plans
        while True:
            self._pass()
            if not self._session.wait_for_others(self._trials(), self._stop, look_s=_LOOK_S):
                break

    def leave_out(self, site: str, trials: Sequence[Trial], reason: str = BUDGET, *, primary: bool = True) -> None:
        """Leave the claimed trials of a recipe waiting, with the reason."""
        if trials:
            self._budgets[site].skip(primary=primary)
            self._budgets[site].prepared(trials[0].recipe)
        self._note_cut(trials, reason)
        self._session.cut(trials, reason)

    def _trials(self) -> list[Trial]:
        return [trial for plan in self._plans.values() for trial in plan.trials]

    def _note_cut(self, trials: Sequence[Trial], reason: str) -> None:
        for recipe in dict.fromkeys(t.recipe for t in trials):
            self.cut.append(f"not run, {reason}: {words_of([t for t in trials if t.recipe == recipe])}")

    def _pass(self) -> None:
        if self._session.missing(self._trials()):
            self._executor.make_ready()
        self._claimed.clear()
        queues = {site: self._queue(site, plan) for site, plan in self._plans.items()}
        while any(queue.open for queue in queues.values()):
            self._stop.check()
            stuck = {slot.site for slot in self._executor.idle() if not self._place(slot, queues[slot.site])}
            for end in self._executor.wait():
                self._land(end, queues[end.unit.site])
            for site in self._executor.deserted([site for site, queue in queues.items() if queue.open]):
                trials = self._session.claim(self._plans[site].trials)
                self.leave_out(site, trials, "every worker of their kind is gone")
                queues[site] = TaskQueue(site, self._plans[site], (), self._budgets[site], prepared=())
            if all(site in stuck and not queue.running for site, queue in queues.items() if queue.open):
                break  # every open unit needs an artifact that another run makes

    def _queue(self, site: str, plan: Plan) -> TaskQueue:
        prepared = {t.artifact_key for t in plan.trials if self._store.prepared(t, plan.batch_sizes) is not None}
        queue = TaskQueue(site, plan, self._session.missing(plan.trials), self._budgets[site], prepared=prepared)
        for recipe in set(plan.recipes) - {unit.recipe for unit in queue.open if unit.kind == PREPARE}:
            queue.budget.prepared(recipe)
        return queue

    def _place(self, slot: Slot, queue: TaskQueue) -> bool:
        """Start the most useful unit on a slot; return False if there is none."""
        while (unit := self._next(slot, queue)) is not None:
            if (queue.site, unit.recipe) not in self._claimed:
                self._claim(queue, unit.recipe)
            elif unit.kind == PREPARE and self._store.prepared(unit.trials[0], queue.plan.batch_sizes) is not None:
                queue.end(unit)  # another kind of machine, or another run, has made it
                queue.budget.prepared(unit.recipe)
            elif self._fits(unit, queue):
                mine = self._session.still_mine(unit.trials)
                primary = [trial for trial in mine if trial.point == queue.plan.primary] or mine[:1]
                self._session.running(primary if unit.kind == PREPARE else mine)
                queue.start(unit)
                self._executor.start(unit, slot, queue)
                return True
        return False

    def _next(self, slot: Slot, queue: TaskQueue) -> WorkUnit | None:
        has_baseline = self._store.prepared(queue.plan.of(queue.plan.recipes[0])[0], queue.plan.batch_sizes) is not None
        self._update_tiers(queue)
        for unit in queue.ready(near=slot.near):
            if (unit.kind == PREPARE or has_baseline) and self._executor.accepts(unit, slot):
                return unit
        return None

    def _claim(self, queue: TaskQueue, recipe: Recipe) -> None:
        """Claim the trials of a recipe, and restrict the queue to them."""
        self._claimed.add((queue.site, recipe))
        trials = queue.plan.of(recipe)
        mine = self._session.claim(trials)
        queue.keep(recipe, mine)
        if not mine and (recipe.steps or self._session.missing(trials)):  # complete, or another run does them
            queue.drop(recipe)
            queue.budget.prepared(recipe)

    def _update_tiers(self, queue: TaskQueue) -> None:
        """Set the recipes that are timed first at the other points: the best one, then the Pareto front."""
        if queue.tiers_at != self._session.finished:
            rows = [self._session.row(t) for t in queue.plan.trials if t.point == queue.plan.primary]
            front = pareto_rows(rows, x="latency_ms_rel", y="quality")
            best = self._session.best()
            queue.tiers = {best["recipe_id"]} if best else set(), {row["recipe_id"] for row in front}
            queue.tiers_at = self._session.finished

    def _fits(self, unit: WorkUnit, queue: TaskQueue) -> bool:
        """Return True if the budget allows a unit; leave it out otherwise."""
        if unit.point not in (None, queue.plan.primary):
            if queue.budget.group_fits():
                return True
            queue.end(unit)
            self.leave_out(unit.site, self._session.still_mine(unit.trials), primary=False)
            return False
        prepared = unit.kind != PREPARE
        if (prepared and unit.recipe in self._made) or queue.budget.fits(unit.recipe, prepared=prepared):
            return True
        queue.drop(unit.recipe)
        self.leave_out(unit.site, self._session.still_mine(queue.plan.of(unit.recipe)))
        return False

    def _land(self, end: UnitEnd, queue: TaskQueue) -> None:
        unit = end.unit
        if end.state == RETRY:
            queue.back(unit)
            return
        queue.end(unit)
        if unit.kind == PREPARE:
            queue.budget.prepared(unit.recipe)
            if end.state == DONE:
                self._made.add(unit.recipe)
            else:
                queue.drop(unit.recipe)
