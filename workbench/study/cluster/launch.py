"""Run a study on a cluster: probe its workers, plan for each kind of machine, and start the run loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.machine import this_site
from workbench.core.progress import Progress, ProgressCallback
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.study.cluster.connection import ClusterWorkers, connected
from workbench.study.cluster.dask_executor import DaskExecutor
from workbench.study.cluster.worker_info import by_site
from workbench.study.config import RunConfig
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.job import RunSummary
from workbench.study.execution.run import Run
from workbench.study.plan.recipes import check_recipes
from workbench.study.plan.trials import Plan, plan_for
from workbench.study.results.schema import TrialRow
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.session import RunSession
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import pack_task
from workbench.study.workers.process import CancelToken

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.study.plan.shapes import Shape
    from workbench.study.study import Study


def run_on_cluster(
    study: Study,
    cluster: Any,
    recipes: Sequence[Recipe] | None,
    config: RunConfig,
    stop: CancelToken,
    *,
    shapes: tuple[Shape, ...],
    progress: ProgressCallback,
) -> RunSummary:
    """Run a plan on every kind of machine of a cluster; errors as :meth:`workbench.Study.run`."""
    task, request = study.task, config.replace(backends=config.backends or DEFAULT_BACKENDS)
    first = plan_for(task.fingerprint, recipes, request, shapes=shapes, site=this_site())
    check_recipes(first.recipes, task)
    packed = pack_task(task, elsewhere=True)
    with connected(cluster) as connection, connection:
        stop.check()
        progress(Progress("study", 0, 0, f"probing the workers of {connection.address}"))
        members = connection.workers(first.backends, config.backends or (), task.fingerprint)
        runs = [name for name in first.backends if all(worker.info.backends[name] is None for worker in members)]
        workers = ClusterWorkers(connection, members, runs, task.fingerprint)
        available = config.replace(backends=tuple(runs))
        plans: dict[str, Plan] = {}
        rows: dict[str, TrialRow] = {}
        for fingerprint, group in by_site(members).items():
            site = group[0].site
            plans[fingerprint] = plan_for(task.fingerprint, recipes, available, shapes=shapes, site=site)
            rows |= plans[fingerprint].rows(task.name, packed.fingerprint, site=site)
        trials = tuple(trial for plan in plans.values() for trial in plan.trials)
        whole = Plan(trials, first.recipes, tuple(runs), first.primary, first.others)
        budgets = {site: TimeBudget(plan, stop, parallel=workers.hosts(site)) for site, plan in plans.items()}
        with RunSession(
            study._store, study.name, whole, rows, quality_drop=config.quality_drop, progress=progress
        ) as session:
            executor = DaskExecutor(
                workers, connection, session, packed, study.files, stop,
                prefix_cache=study.prefix_cache, policy=WorkerPolicy(config.stall_timeout_s),
            )  # fmt: skip
            return Run(session, ArtifactStore(study.files), executor, stop, budgets).work(plans)
