"""Run a plan or the default strategy of a study: on this machine, or on a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.compress.recipe import Recipe
from workbench.core.errors import Cancelled, StudyError
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.study.config import BASELINE_BACKEND, RunConfig
from workbench.study.execution.job import RunSummary
from workbench.study.execution.local_executor import LocalExecutor, monitoring
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.plan.recipes import check_recipes
from workbench.study.plan.shapes import task_shapes
from workbench.study.plan.trials import plan_for
from workbench.study.storage.last_run import save_question
from workbench.study.storage.session import RunSession
from workbench.study.strategy.deadline import StrategyBudget, TrialDeadline
from workbench.study.strategy.decision_log import decision_log_for
from workbench.study.strategy.executor import StrategyRun
from workbench.study.strategy.interface import PlanRequest
from workbench.study.workers.baseline import with_earlier_baseline, with_fastest_baseline
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PrepareClient, pack_task

if TYPE_CHECKING:
    from workbench.measure.resources.monitor import Monitor
    from workbench.study.study import Study
    from workbench.study.workers.process import CancelToken


def begin_run(
    study: Study, recipes: Sequence[Recipe] | None, config: RunConfig, **others: Any
) -> tuple[Callable[[], RunSummary], Callable[[], None]]:
    """Begin a run and return the functions that work it off and that stop it; see :meth:`Study.run`."""
    run = _Launch(study, recipes, config, study._active.begin(config.budget_s), **others)
    return run.work, run.stop.set


@dataclass(frozen=True)
class _Launch:
    study: Study
    recipes: Sequence[Recipe] | None
    config: RunConfig
    stop: CancelToken
    monitor: Monitor | None = None
    cluster: Any = None
    progress: ProgressCallback = ignore_progress

    def work(self) -> RunSummary:
        with self.study._active.work(self.stop):
            started = time.monotonic()
            watched = monitoring(self.monitor)
            try:
                self._notify("checking the task")
                if self.cluster is not None:
                    return self._on_cluster()
                with watched:
                    summary = self._here()
            except Cancelled:
                summary = RunSummary(0, 0, 0, 0, cancelled=True, seconds=0.0)
            return replace(summary, seconds=time.monotonic() - started)

    def _notify(self, message: str) -> None:
        self.progress(Progress("study", 0, 0, message))

    def _on_cluster(self) -> RunSummary:
        from workbench.study.cluster.launch import run_on_cluster

        study, config = self.study, self.config
        if config.baseline != BASELINE_BACKEND or config.references:
            raise StudyError("baseline and references must be left out with cluster: each worker has its own.")
        if self.monitor is not None:
            raise StudyError("A monitor watches this machine, and with cluster=... the work is done elsewhere.")
        shapes = task_shapes(study.task, config.shapes)
        save_question(study._store, study.name, config, default_plan=False)
        return run_on_cluster(
            study, self.cluster, self.recipes, config, self.stop, shapes=shapes, progress=self.progress
        )

    def _here(self) -> RunSummary:
        """Run a plan, or the default strategy without recipes, in worker processes of this machine."""
        study, config, stop = self.study, self.config, self.stop
        deadline, policy = TrialDeadline(stop), WorkerPolicy(config.stall_timeout_s)
        client = PrepareClient(study.files, deadline, prefix_cache=study.prefix_cache, policy=policy)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(client.close, kill=True)
            if isinstance(study._task, str):  # not loaded yet: this process and the worker can import torch together
                states = {stored.state for stored in study._store.load(study.name).values()}
                if states != {"complete"}:
                    client.start()
            return self._planned(client, deadline, policy)

    def _planned(self, client: PrepareClient, deadline: TrialDeadline, policy: WorkerPolicy) -> RunSummary:
        study, config, stop, recipes = self.study, self.config, self.stop, self.recipes
        task, store, name = study.task, study._store, study.name
        shapes = task_shapes(task, config.shapes)
        floats = [Recipe(name="float", seed=config.seed)]
        plan = plan_for(task.fingerprint, floats if recipes is None else recipes, config, shapes=shapes)
        if recipes is None:
            rows = decision_log_for(store, name, plan, task.fingerprint, config).finished_rows()
            if rows:
                save_question(store, name, config, default_plan=True)
                self.progress(Progress("study", len(rows), len(rows), plan.words(), {"plan": rows}))
                return RunSummary(0, len(rows), 0, 0, cancelled=False, seconds=0.0)
        plan, new_points = with_earlier_baseline(plan, study._rows())
        if not store.all_complete(name, [trial.key for trial in plan.trials]):
            client.start()  # it imports torch during the checks
        check_recipes(plan.recipes, task)
        packed = pack_task(task)
        client.carry(packed)
        stop.check()
        with machine_lock(exclusive=True, stop=stop, notify=self._notify):
            plan = with_fastest_baseline(plan, new_points, client.choose_threads)
        save_question(store, name, config, default_plan=recipes is None)
        first = plan
        if recipes is None:
            first = replace(plan, trials=tuple(trial for trial in plan.trials if trial.point == plan.primary))
        rows_of_plan = first.rows(task.name, packed.fingerprint)
        with RunSession(
            store, name, first, rows_of_plan, quality_drop=config.quality_drop, progress=self.progress
        ) as session:
            place = (task, plan, session, packed, study.files, stop)
            options: dict[str, Any] = {"client": client, "monitor": self.monitor, "policy": policy}
            if recipes is not None:
                return LocalExecutor(*place, **options).work()
            record = decision_log_for(store, name, plan, packed.fingerprint, config)
            options |= {"budget": StrategyBudget(plan, stop), "question": PlanRequest.of(task, plan, config)}
            return StrategyRun(*place, deadline=deadline, record=record, **options).work()
