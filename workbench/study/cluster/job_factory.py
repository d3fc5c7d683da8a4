"""What a unit needs to run elsewhere: its parcels, and the order with the rows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.measure.comparison.latency_cost import latency_cost
from workbench.study.cluster.blobs import Blob, artifact_blob, task_blob
from workbench.study.cluster.job import ClusterJob
from workbench.study.cluster.tasks import PREPARE, WorkUnit
from workbench.study.cluster.worker_info import ClusterWorker, shares_cores
from workbench.study.execution.budget import TimeBudget
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.schema import TrialRow, judged_on
from workbench.study.storage.session import RunSession
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import Shipment
from workbench.study.workers.process import CancelToken


class JobFactory:
    """Makes the orders of one run."""

    def __init__(
        self,
        run: str,
        shipment: Shipment,
        files: Path,
        ledger: RunSession,
        stop: CancelToken,
        *,
        prefix_cache: bool,
        policy: WorkerPolicy,
    ) -> None:
        self.fingerprint = shipment.fingerprint
        self._run, self._files, self._ledger, self._stop = run, files, ledger, stop
        self._prefix_cache, self._policy = prefix_cache, policy
        self._task = task_blob(shipment)
        self._parcels: dict[str, Blob] = {}

    def keep(self, blob: Blob) -> None:
        """Note the artefact that a worker has made."""
        self._parcels[blob.name] = blob

    def blobs(self, unit: WorkUnit, plan: Plan) -> list[Blob]:
        """Return the task, and for a timing the artefacts of the recipe and of the baseline."""
        if unit.kind == PREPARE:
            return [self._task]
        base = plan.baseline(plan.primary)
        return [self._task, *map(self._artifact, dict.fromkeys((base.artifact_key, unit.artifact_key)))]

    def order(
        self, unit: WorkUnit, node: ClusterWorker, nodes: Sequence[ClusterWorker], plan: Plan, budget: TimeBudget
    ) -> ClusterJob:
        """Return what ``node`` is told to do; ``nodes`` are all that take part."""
        point = unit.point or plan.primary
        base = plan.baseline(point)
        trials = tuple(dict.fromkeys((base, *unit.trials)))
        recipes = tuple(dict.fromkeys((base.recipe, unit.recipe)))
        timing = unit.kind != PREPARE
        return ClusterJob(
            run=self._run,
            unit=unit,
            plan=Plan(trials, recipes, plan.backends, point, ()),
            rows=self._rows_beside(unit, base) if timing else {},
            fingerprint=self.fingerprint,
            batch_sizes=plan.batch_sizes,
            rounds=budget.rounds,
            block_s=budget.block_s,
            share_s=budget.share_s(),
            seconds=self._stop.remaining(),
            prefix_cache=self._prefix_cache,
            stall_s=self._policy.stall_s,
            worker=node.name,
            shares=shares_cores(node, nodes),
            times=timing or latency_cost(unit.recipe) is not None,
        )

    def _artifact(self, key: str) -> Blob:
        if key not in self._parcels:
            self._parcels[key] = artifact_blob(self._files, key)
        return self._parcels[key]

    def _rows_beside(self, unit: WorkUnit, base: Trial) -> dict[str, TrialRow]:
        """Return the rows that a worker needs: what it will fill, the baseline's, and those with the same quality."""
        judged = {trial.judged_on for trial in unit.trials}
        alike = {
            row["trial_key"]: row
            for row in self._ledger.complete_rows()
            if row["fingerprint"] == unit.site and judged_on(row) in judged
        }
        return {**alike, **{trial.key: self._ledger.row(trial) for trial in (base, *unit.trials)}}
