"""Load a model in one backend, verify its outputs, and collect warnings."""

from __future__ import annotations

import dataclasses
import time

from workbench.artifact.reference import Arrays
from workbench.compress.quantize.modes import refusal
from workbench.core.errors import EngineError, WorkbenchError, first_line
from workbench.core.machine import available_cores, this_machine
from workbench.engine.backends import require_backend
from workbench.engine.backends.base import (
    BatchFirstSession,
    ModelSource,
    Session,
    placement_of,
    precision_of,
)
from workbench.engine.backends.oom_backoff import OomBackoffSession, memory_reason
from workbench.engine.config import InferenceConfig
from workbench.engine.precision import falls_back
from workbench.export.agreement import Agreement


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A session with its agreement with the reference, load time and first-call time in seconds.

    ``first_call_s`` and ``agreement`` are None if nothing was run: without a reference, or with ``verify=False``.
    """

    backend: str
    session: OomBackoffSession
    agreement: Agreement | None
    load_s: float
    first_call_s: float | None
    notes: tuple[str, ...] = ()

    @property
    def problem(self) -> str | None:
        return None if self.agreement is None else self.agreement.problem


def load(name: str, source: ModelSource, config: InferenceConfig) -> tuple[OomBackoffSession, float]:
    """Load a model in one backend; also return the seconds, without importing the runtime and trial compiles.

    Raises EngineError if the backend does not support the quantization mode of the model, or memory runs out.
    """
    reason = refusal(source.mode, name)
    if reason is not None:
        raise EngineError(f"{source.label} is quantized as {source.mode!r}: {reason}")
    backend = require_backend(name)
    start = time.perf_counter()
    try:
        session = backend.load(source, config)
    except WorkbenchError:
        raise
    except Exception as error:
        if (missing := memory_reason(error)) is None:
            raise
        raise EngineError(
            f"{name} ran out of memory while it loaded {source.label}: {missing}. Free what others hold, "
            "or use a smaller model or batch_size."
        ) from error
    seconds = time.perf_counter() - start - getattr(session, "trial_compile_s", 0.0)
    if source.io.moves_batch:
        session = BatchFirstSession(session, source.io)
    fixed = source.io.batch is not None or source.unbatchable is not None
    return OomBackoffSession(session, backend=name, fixed=fixed), seconds


def load_checked(source: ModelSource, config: InferenceConfig) -> LoadedModel:
    """Load a model in the configured backend; raise EngineError if its outputs are too far from the reference."""
    model = load_compared(config.backend, source, config)
    if model.problem:
        model.session.close()
        raise EngineError(_disagreement(model, source, model.problem))
    return model


def load_compared(name: str, source: ModelSource, config: InferenceConfig) -> LoadedModel:
    """Load and compare with the reference; precision "auto" falls back to float32 if 16 bits differ too much."""
    session, seconds = load(name, source, config)
    if config.strict:
        _require_as_configured(name, session, source, config)
    precision = precision_of(session)
    seconds_of_calls: list[float] = []

    def run(inputs: Arrays) -> Arrays:
        start = time.perf_counter()
        outputs, _ = session.run(inputs)
        seconds_of_calls.append(time.perf_counter() - start)
        return outputs

    try:
        agreement = source.agreement(run, precision, config)
    except Exception as error:
        session.close()
        raise EngineError(f"{name} cannot run {source.label} in {precision}: {first_line(error)}") from error
    model = LoadedModel(name, session, agreement, seconds, next(iter(seconds_of_calls), None))
    if model.problem and config.precision.compute == "auto" and precision != "float32":
        session.close()
        float32 = config.replace(precision=config.precision.replace(compute="float32"))
        notes = falls_back("auto", f"in {precision} the {model.problem}").notes
        model = dataclasses.replace(load_compared(name, source, float32), notes=notes)
    return model


def _require_as_configured(name: str, session: Session, source: ModelSource, config: InferenceConfig) -> None:
    problems = list(placement_of(session).fallbacks)
    requested, actual = config.precision.compute, precision_of(session)
    if requested not in ("auto", actual):
        problems.append(f"computes in {actual}, not in {requested}")
    if problems:
        session.close()
        raise EngineError(
            f"{name} does not run {source.label} as asked, and strict=True: {'; '.join(problems)}. "
            "Configure what this machine has (workbench doctor), or set strict=False and read engine.notes."
        )


def _disagreement(model: LoadedModel, source: ModelSource, problem: str) -> str:
    precision = precision_of(model.session)
    if precision != "float32":
        return (
            f"{model.backend} in {precision} is too far from the float model for {source.label}: {problem}. Use "
            f"precision='float32', or Precision({precision!r}, tolerance=...) (a share of the largest value)."
        )
    has_torch = source.module is not None
    reference = "ONNX Runtime without optimizations"
    if has_torch:
        reference = "the simulation" if source.quantized else "torch"
    hint = " wb.debug_accuracy(variant) finds the layer." if source.quantized and has_torch else ""
    return (
        f"{model.backend} gives other outputs than {reference} for {source.label}: {problem}.{hint} Use another "
        "backend, or set InferenceConfig.tolerance (a share of the largest value) or verify=False."
    )


NOTABLE_SHARE = 0.05
"""Difference as a share of the reference's largest value from which a note is added."""


def load_notes(source: ModelSource, model: LoadedModel, config: InferenceConfig) -> dict[str, None]:
    """Return the notes of a loaded model, as an ordered set."""
    ineffective, quality = _ineffective_options(model.session, config), quality_notes(source, model.agreement)
    reason = source.unbatchable
    separate = () if reason is None else (f"each input runs in a call of its own: {reason}",)
    return dict.fromkeys((*source.notes, *model.session.notes, *model.notes, *ineffective, *separate, *quality))


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
