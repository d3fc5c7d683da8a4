"""Does a loaded model give the outputs it should, and what must a reader of its figures know. numpy only."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from workbench.artifact.reference import Arrays, Reference
from workbench.core.machine import available_cores, this_machine
from workbench.engine.backends.base import ModelSource, Session
from workbench.engine.config import InferenceConfig
from workbench.export.agreement import Agreement, compare_outputs

FAR = 0.05
"""Share of the reference's largest value from which a difference is worth a note."""


class FirstCall:
    """Runs a session, and keeps how many seconds its first call took; None until then."""

    def __init__(self, session: Session) -> None:
        self.seconds: float | None = None
        self._run = session.run

    def __call__(self, inputs: Arrays) -> Arrays:
        """Run one batch."""
        start = time.perf_counter()
        outputs, _ = self._run(inputs)
        if self.seconds is None:
            self.seconds = time.perf_counter() - start
        return outputs


def verify(run: FirstCall, session: Session, source: ModelSource, config: InferenceConfig) -> Agreement | None:
    """Run the reference inputs in calls of the configured batch size; None where there is no reference."""
    if source.reference is None:
        return None
    whole = source.reference.batch_size if source.apart is not None else config.batch_size
    size, precision = source.io.batch or whole, precision_of(session)
    return agreement_at(size, run, source.reference, precision, source, config)


def agreement_at(
    size: int,
    run: Callable[[Arrays], Arrays],
    reference: Reference,
    precision: str,
    source: ModelSource,
    config: InferenceConfig,
) -> Agreement:
    """Run the reference inputs in calls of ``size`` samples, and compare what they give."""
    total = reference.batch_size
    parts = []
    for start in range(0, total, size):
        inputs = [array.take(range(start, start + size), axis=0, mode="wrap") for array in reference.inputs]
        outputs = run(inputs)
        parts.append(outputs if size <= total - start else [output[: total - start] for output in outputs])
    outputs = [np.concatenate([part[i] for part in parts]) for i in range(len(parts[0]))]
    if precision != "float32":  # an index of the largest value may change with its last bits: quality tells its cost
        floats = [i for i, output in enumerate(reference.outputs) if output.dtype.kind == "f"]
        wanted, outputs = [reference.outputs[i] for i in floats], [outputs[i] for i in floats]
    else:
        wanted = reference.outputs
    limit = config.accepted(precision, quantized=source.quantized)
    return compare_outputs(wanted, outputs, quantized=source.quantized, tolerance=limit)


def precision_of(session: Session) -> str:
    """Return what a session computes in; one of another package that says nothing computes in float32."""
    return getattr(session, "precision", "float32")


def load_notes(
    source: ModelSource, session: Session, config: InferenceConfig, agreement: Agreement | None
) -> dict[str, None]:
    """Return all that must be said of a loaded model, a sentence each, none of them twice."""
    asked = _idle_notes(session, config)
    apart = (f"each input runs in a call of its own: {source.apart}",) if source.apart is not None else ()
    return dict.fromkeys((*source.notes, *session.notes, *asked, *apart, *quality_notes(source, agreement)))


def _idle_notes(session: Session, config: InferenceConfig) -> list[str]:
    """Return what was asked for and helps nothing here."""
    notes = []
    allowed = available_cores()
    if session.device == "cpu" and config.threads is not None and config.threads > allowed:
        cores = "1 core" if allowed == 1 else f"{allowed} cores"
        notes.append(f"threads={config.threads}: this process may use {cores} only, and more threads take turns there")
    if config.gpu_memory_limit_mib is not None and getattr(session, "pipe", None) is None:
        where = "the CPU" if session.device == "cpu" else f"{session.device} in another runtime"
        limit = f"gpu_memory_limit_mib={config.gpu_memory_limit_mib:g}"
        notes.append(f"{limit}: it holds for torch's backends on CUDA devices, and this runs on {where} without")
    return notes


def quality_notes(source: ModelSource, agreement: Agreement | None) -> list[str]:
    """Return what must be said about quality, a sentence each."""
    notes = []
    if source.quantized and not this_machine().int8_dot:
        notes.append(
            "this CPU has no int8 dot product (VNNI): int8 products may saturate unless the model was quantized with a "
            'reduced range, which Quantize(reduce_range="auto") does; trust the quality measured on this engine'
        )
    if agreement is not None and agreement.share > FAR:
        notes.append(
            f"outputs differ from the reference by up to {agreement.max_abs_diff:.3g} ({agreement.share:.0%} of its "
            "largest value): trust the quality measured on this engine"
        )
    if agreement is None:
        notes.append("outputs were not compared with a reference")
    return notes
