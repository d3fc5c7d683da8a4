"""Collect warnings about a loaded model."""

from __future__ import annotations

from workbench.core.machine import available_cores, this_machine
from workbench.engine.backends.base import ModelSource, Session
from workbench.engine.config import InferenceConfig
from workbench.export.agreement import Agreement

NOTABLE_SHARE = 0.05
"""Difference as a share of the reference's largest value from which a note is added."""


def load_notes(
    source: ModelSource, session: Session, config: InferenceConfig, agreement: Agreement | None
) -> dict[str, None]:
    """Return the notes of a loaded model, as an ordered set."""
    ineffective = _ineffective_options(session, config)
    separate: tuple[str, ...] = ()
    if source.unbatchable is not None:
        separate = (f"each input runs in a call of its own: {source.unbatchable}",)
    return dict.fromkeys((*source.notes, *session.notes, *ineffective, *separate, *quality_notes(source, agreement)))


def _ineffective_options(session: Session, config: InferenceConfig) -> list[str]:
    notes = []
    allowed = available_cores()
    if session.device == "cpu" and config.threads is not None and config.threads > allowed:
        cores = "1 core" if allowed == 1 else f"{allowed} cores"
        notes.append(f"threads={config.threads}: this process may use {cores} only, which the threads share")
    if config.gpu_memory_limit_mib is not None and getattr(session, "pipe", None) is None:
        place = "the CPU" if session.device == "cpu" else f"{session.device} in another runtime"
        limit = f"gpu_memory_limit_mib={config.gpu_memory_limit_mib:g}"
        notes.append(f"{limit} has no effect on {place}: it limits torch's backends on CUDA devices")
    return notes


def quality_notes(source: ModelSource, agreement: Agreement | None) -> list[str]:
    """Return the notes on output quality."""
    notes = []
    if source.quantized and not this_machine().int8_dot:
        notes.append(
            "this CPU has no int8 dot product (VNNI): int8 products may saturate unless the model was quantized with a "
            'reduced range, which Quantize(reduce_range="auto") does; trust the quality measured on this engine'
        )
    if agreement is not None and agreement.share > NOTABLE_SHARE:
        notes.append(
            f"outputs differ from the reference by up to {agreement.max_abs_diff:.3g} ({agreement.share:.0%} of its "
            "largest value): trust the quality measured on this engine"
        )
    if agreement is None:
        notes.append("outputs were not compared with a reference")
    return notes
