"""Run a plan or the default strategy of a study: on this machine, or on a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.compress.recipe import Recipe
from workbench.core.errors import Cancelled, StudyError
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.study.config import BASELINE_BACKEND, RunConfig
from workbench.study.execution.local_executor import LocalExecutor, monitoring
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.execution.summary import RunSummary
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
    study: Study,
    recipes: Sequence[Recipe] | None,
    config: RunConfig,
    *,
    monitor: Monitor | None = None,
    cluster: Any = None,
    progress: ProgressCallback = ignore_progress,
) -> tuple[Callable[[], RunSummary], Callable[[], None]]:
    """Begin a run and return the functions that work it off and that stop it; see :meth:`Study.run`."""
    stop = study._active.begin(config.budget_s)

    def work() -> RunSummary:
        with study._active.work(stop):
            return _run(study, recipes, config, stop, monitor, cluster, progress)

    return work, stop.set


def _run(
    study: Study,
    recipes: Sequence[Recipe] | None,
    config: RunConfig,
    stop: CancelToken,
    monitor: Monitor | None,
    cluster: Any,
    progress: ProgressCallback,
) -> RunSummary:
    started = time.monotonic()
    watched = monitoring(monitor)
    try:
        progress(Progress("study", 0, 0, "checking the task"))
        if cluster is not None:
            return _run_on_cluster(study, recipes, config, stop, cluster, monitor, progress)
        with watched:
            summary = _run_here(study, recipes, config, stop, monitor, progress)
    except Cancelled:
        summary = RunSummary(0, 0, 0, 0, cancelled=True, seconds=0.0)
    return replace(summary, seconds=time.monotonic() - started)


def _run_on_cluster(
    study: Study,
    recipes: Sequence[Recipe] | None,
    config: RunConfig,
    stop: CancelToken,
    cluster: Any,
    monitor: Monitor | None,
    progress: ProgressCallback,
) -> RunSummary:
    from workbench.study.cluster.launch import run_on_cluster

    if config.baseline != BASELINE_BACKEND or config.references:
        raise StudyError("baseline and references must be left out with cluster: each worker has its own.")
    if monitor is not None:
        raise StudyError("A monitor watches this machine, and with cluster=... the work is done elsewhere.")
    shapes = task_shapes(study.task, config.shapes)
    save_question(study._store, study.name, config, default_plan=False)
    return run_on_cluster(study, cluster, recipes, config, stop, shapes=shapes, progress=progress)


def _run_here(
    study: Study,
    recipes: Sequence[Recipe] | None,
    config: RunConfig,
    stop: CancelToken,
    monitor: Monitor | None,
    progress: ProgressCallback,
) -> RunSummary:
    """Run a plan, or the default strategy without ``recipes``, in worker processes of this machine."""
    task, store, deadline = study.task, study._store, TrialDeadline(stop)
    policy = WorkerPolicy(config.stall_timeout_s)
    shapes = task_shapes(task, config.shapes)
    floats = [Recipe(name="float", seed=config.seed)]
    plan = plan_for(task.fingerprint, floats if recipes is None else recipes, config, shapes=shapes)
    if recipes is None:
        rows = decision_log_for(store, study.name, plan, task.fingerprint, config).finished_rows()
        if rows:
            save_question(store, study.name, config, default_plan=True)
            progress(Progress("study", len(rows), len(rows), plan.words(), {"plan": rows}))
            return RunSummary(0, len(rows), 0, 0, cancelled=False, seconds=0.0)
    plan, new_points = with_earlier_baseline(plan, study._rows())
    client = PrepareClient(None, study.files, deadline, prefix_cache=study.prefix_cache, policy=policy)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(client.close, kill=True)
        if not store.all_complete(study.name, [trial.key for trial in plan.trials]):
            client.start()  # it imports torch during the checks
        check_recipes(plan.recipes, task)
        packed = pack_task(task)
        client.carry(packed)
        stop.check()
        with machine_lock(exclusive=True, stop=stop, notify=_reporter(progress)):
            plan = with_fastest_baseline(plan, new_points, client.choose_threads)
        save_question(store, study.name, config, default_plan=recipes is None)
        first = plan
        if recipes is None:
            first = replace(plan, trials=tuple(trial for trial in plan.trials if trial.point == plan.primary))
        rows_of_plan = first.rows(task.name, packed.fingerprint)
        with RunSession(
            store, study.name, first, rows_of_plan, quality_drop=config.quality_drop, progress=progress
        ) as session:
            if recipes is not None:
                run = LocalExecutor(
                    task, plan, session, packed, study.files, stop, client=client, monitor=monitor, policy=policy
                )
                return run.work()
            return StrategyRun(
                task, plan, session, packed, study.files, stop, client=client, monitor=monitor, policy=policy,
                deadline=deadline, budget=StrategyBudget(plan, stop), question=PlanRequest.of(task, plan, config),
                record=decision_log_for(store, study.name, plan, packed.fingerprint, config),
            ).work()  # fmt: skip


def _reporter(progress: ProgressCallback) -> Callable[[str], None]:
    return lambda message: progress(Progress("study", 0, 0, message))
