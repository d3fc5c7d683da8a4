"""Probes of the *prepare* worker: quality, size, and speedup over a reference on one engine, without an artifact."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from workbench.measure.comparison.latency_cost import LatencyCost

if TYPE_CHECKING:
    from workbench.compress.variant import LayerReport, Variant
    from workbench.tasks.task import Task

_BATCH = 128
_TRAINING = 4.0
"""Forward passes that a step of distillation takes: the teacher's, the student's, and its backward pass."""


class Prober:
    """Times variants against the first one, whose engine stays open between probes."""

    def __init__(self) -> None:
        self._cost: LatencyCost | None = None
        self._reference_ms = 0.0

    def close(self) -> None:
        """Free the reference's engine."""
        if self._cost is not None:
            self._cost.close()
            self._cost = None

    def probe(self, variant: Variant, *, engine: str | None, batch_size: int, threads: int) -> dict[str, Any]:
        """Return speedup over the reference, quality, size, and the number of removed units."""
        ratio = None if engine is None else self._ratio(variant, engine, batch_size, threads)
        reports = variant.reports
        first = reports[0] if reports else None
        trained = [report for report in reports if report.epochs_done]
        return {
            "ratio": ratio,
            "validation_drop": (first.quality_before - variant.quality) if first is not None else 0.0,
            "quality": variant.quality,
            "macs": variant.macs / first.macs_before if first is not None and first.macs_before else 1.0,
            "params": variant.params / first.params_before if first is not None and first.params_before else 1.0,
            "units": sum(map(_could_go, first.layers)) if first is not None else 0,
            "taken": first.touched if first is not None else 0,
            "epoch_s": trained[-1].seconds / trained[-1].epochs_done if trained else None,
        }

    def _ratio(self, variant: Variant, engine: str, batch_size: int, threads: int) -> float:
        if self._cost is None or self._cost.measures != (engine, batch_size):
            self.close()
            self._cost = LatencyCost(engine, batch_size=batch_size, threads=threads)
            self._reference_ms = self._cost(variant)
            return 1.0
        return self._reference_ms / self._cost(variant)


def _could_go(layer: LayerReport) -> bool:
    """Return True for a block that was removed, or scored and kept."""
    return layer.touched or layer.reason.startswith("kept")


def epoch_seconds(task: Task) -> float | None:
    """Estimate the time of an epoch of distillation from one forward pass."""
    import torch

    from workbench.compress.model_ops import predict_with

    module, samples = task.model(), len(task.train)
    inputs = task.train.take(range(min(_BATCH, samples))).inputs
    with torch.no_grad():
        predict_with(module, inputs)  # the first call also allocates
        begun = time.perf_counter()
        predict_with(module, inputs)
        seconds = time.perf_counter() - begun
    return _TRAINING * seconds * samples / min(_BATCH, samples)
