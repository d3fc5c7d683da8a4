"""What a unit needs to run elsewhere: its parcels, and the order with the rows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.measure.comparison.latency_cost import latency_cost
from workbench.study.cluster.blobs import Parcel, pack_artifact, pack_task
from workbench.study.cluster.job import Order
from workbench.study.cluster.tasks import PREPARE, Unit
from workbench.study.cluster.worker_info import Node, shares_cores
from workbench.study.execution.budget import Pacing
from workbench.study.plan.trials import Plan, Planned
from workbench.study.results.schema import TrialRow, judged_on
from workbench.study.storage.session import Ledger
from workbench.study.workers.policy import Care
from workbench.study.workers.prepare_client import Shipment
from workbench.study.workers.process import Stop


class Orders:
    """Makes the orders of one run."""

    def __init__(
        self,
        run: str,
        shipment: Shipment,
        files: Path,
        ledger: Ledger,
        stop: Stop,
        *,
        prefix_cache: bool,
        care: Care,
    ) -> None:
        self.fingerprint = shipment.fingerprint
        self._run, self._files, self._ledger, self._stop = run, files, ledger, stop
        self._prefix_cache, self._care = prefix_cache, care
        self._task = pack_task(shipment)
        self._parcels: dict[str, Parcel] = {}

    def keep(self, parcel: Parcel) -> None:
        """Note the artefact that a worker has made."""
        self._parcels[parcel.name] = parcel

    def parcels(self, unit: Unit, plan: Plan) -> list[Parcel]:
        """Return the task, and for a timing the artefacts of the recipe and of the baseline."""
        if unit.kind == PREPARE:
            return [self._task]
        base = plan.baseline(plan.primary)
        return [self._task, *map(self._artifact, dict.fromkeys((base.artifact_key, unit.artifact_key)))]

    def order(self, unit: Unit, node: Node, nodes: Sequence[Node], plan: Plan, pacing: Pacing) -> Order:
        """Return what ``node`` is told to do; ``nodes`` are all that take part."""
        point = unit.point or plan.primary
        base = plan.baseline(point)
        trials = tuple(dict.fromkeys((base, *unit.trials)))
        recipes = tuple(dict.fromkeys((base.recipe, unit.recipe)))
        timing = unit.kind != PREPARE
        return Order(
            run=self._run,
            unit=unit,
            plan=Plan(trials, recipes, plan.backends, point, ()),
            rows=self._rows_beside(unit, base) if timing else {},
            fingerprint=self.fingerprint,
            batch_sizes=plan.batch_sizes,
            rounds=pacing.rounds,
            block_s=pacing.block_s,
            share_s=pacing.share_s(),
            seconds=self._stop.remaining(),
            prefix_cache=self._prefix_cache,
            stall_s=self._care.stall_s,
            worker=node.name,
            shares=shares_cores(node, nodes),
            times=timing or latency_cost(unit.recipe) is not None,
        )

    def _artifact(self, key: str) -> Parcel:
        if key not in self._parcels:
            self._parcels[key] = pack_artifact(self._files, key)
        return self._parcels[key]

    def _rows_beside(self, unit: Unit, base: Planned) -> dict[str, TrialRow]:
        """Return the rows that a worker needs: what it will fill, the baseline's, and those with the same quality."""
        judged = {trial.judged_on for trial in unit.trials}
        alike = {
            row["trial_key"]: row
            for row in self._ledger.complete_rows()
            if row["fingerprint"] == unit.site and judged_on(row) in judged
        }
        return {**alike, **{trial.key: self._ledger.row(trial) for trial in (base, *unit.trials)}}
