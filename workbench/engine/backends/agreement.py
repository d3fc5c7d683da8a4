"""Compare a session's outputs with the reference outputs. numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workbench.artifact.reference import Arrays, Reference
from workbench.engine.backends.base import ModelSource, Session
from workbench.engine.config import InferenceConfig
from workbench.export.agreement import Agreement, compare_outputs


def agreement_at(
    size: int,
    run: Callable[[Arrays], Arrays],
    reference: Reference,
    precision: str,
    source: ModelSource,
    config: InferenceConfig,
) -> Agreement:
    """Run the reference inputs in calls of ``size`` samples, and compare the outputs."""
    total = reference.batch_size
    parts = []
    for start in range(0, total, size):
        inputs = [array.take(range(start, start + size), axis=0, mode="wrap") for array in reference.inputs]
        outputs = run(inputs)
        parts.append(outputs if size <= total - start else [output[: total - start] for output in outputs])
    outputs, expected = [np.concatenate([part[i] for part in parts]) for i in range(len(parts[0]))], reference.outputs
    if precision != "float32":  # an argmax may change with the last bits: measured quality shows its cost
        floats = [i for i, output in enumerate(expected) if output.dtype.kind == "f"]
        expected, outputs = [expected[i] for i in floats], [outputs[i] for i in floats]
    limit = config.accepted(precision, quantized=source.quantized)
    return compare_outputs(expected, outputs, quantized=source.quantized, tolerance=limit)


def precision_of(session: Session) -> str:
    """Return the compute precision of a session, float32 by default."""
    return getattr(session, "precision", "float32")
