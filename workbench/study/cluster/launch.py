"""From what ``Study.run(cluster=...)`` was asked for to its run: what can be done where, and the plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.machine import this_site
from workbench.core.progress import Progress, ProgressCallback
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.study.cluster.connection import connected
from workbench.study.cluster.dask_executor import ClusterRun
from workbench.study.cluster.summary import ClusterSummary
from workbench.study.cluster.worker_info import by_site
from workbench.study.plan.trials import Plan, check_recipes, plan_for
from workbench.study.results.schema import TrialRow
from workbench.study.storage.database import Store
from workbench.study.storage.session import RunSession
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import pack
from workbench.study.workers.process import CancelToken

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.study.plan.shapes import Shape
    from workbench.tasks.task import Task


def run_on_cluster(
    task: Task,
    cluster: Any,
    store: Store,
    study: str,
    stop: CancelToken,
    *,
    recipes: Sequence[Recipe] | None,
    backends: Sequence[str] | None,
    batch_sizes: Sequence[int],
    threads: int | None,
    budget_s: float | None,
    quality_drop: float,
    shapes: tuple[Shape, ...],
    prefix_cache: bool,
    policy: WorkerPolicy,
    progress: ProgressCallback,
) -> ClusterSummary:
    """Run a plan on every kind of machine that the cluster has; errors as :meth:`workbench.Study.run`."""
    asked = (recipes, backends if backends is not None else DEFAULT_BACKENDS, batch_sizes)
    more: dict[str, Any] = {"threads": threads, "budget_s": budget_s, "shapes": shapes}
    first = plan_for(task.fingerprint, *asked, **more, site=this_site())  # what is wrong is said before connecting
    check_recipes(first.recipes, task)
    shipment = pack(task, elsewhere=True)
    with connected(cluster) as link, link:
        stop.check()
        progress(Progress("study", 0, 0, f"looking at the workers of {link.address}"))
        nodes = link.nodes(first.backends, first.backends if backends is not None else (), task.fingerprint)
        runs = [name for name in first.backends if all(node.answer.backends[name] is None for node in nodes)]
        plans: dict[str, Plan] = {}
        rows: dict[str, TrialRow] = {}
        for fingerprint, group in by_site(nodes).items():
            site = group[0].site
            plans[fingerprint] = plan_for(task.fingerprint, recipes, runs, batch_sizes, **more, site=site)
            rows |= plans[fingerprint].rows(task.name, shipment.fingerprint, site=site)
        whole = Plan(
            tuple(trial for plan in plans.values() for trial in plan.trials),
            first.recipes,
            tuple(runs),
            first.primary,
            first.others,
        )
        with RunSession(store, study, whole, rows, quality_drop=quality_drop, progress=progress) as ledger:
            files: Path = store.files
            run = ClusterRun(
                plans, nodes, link, ledger, shipment, files, stop, prefix_cache=prefix_cache, policy=policy
            )
            return run.work()
