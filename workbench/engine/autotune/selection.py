"""backend="auto": measure the backends that can run the model here, and take the fastest that gives its outputs.

Measured are torch-eager, onnxruntime and openvino, which load in about a second each, for ``TOTAL_S`` seconds at most.
torch-compile and aot-inductor call a C++ compiler for every part of a model, which takes from ten seconds to minutes
and cannot be cut short, and torchscript is deprecated: auto takes them in only where ``InferenceConfig.candidates``
names them.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

from workbench.compress.quantize.modes import refusal
from workbench.core.errors import EngineError, WorkbenchError, first_line
from workbench.core.machine import default_threads
from workbench.engine.autotune.result import describe
from workbench.engine.backends import require_backend
from workbench.engine.backends.base import BatchFirst, ModelSource, Session
from workbench.engine.calls.oom_backoff import BackingOff, memory_reason
from workbench.engine.config import InferenceConfig
from workbench.engine.loading.placement import placement_of
from workbench.engine.loading.validation import FirstCall, precision_of, verify
from workbench.engine.precision import fallen
from workbench.export.agreement import Agreement
from workbench.timing.arms import CallArm
from workbench.timing.blocks import Block
from workbench.timing.interleave import interleave
from workbench.timing.pace import PaceRatio, pace_ratio
from workbench.timing.summary import Timing

ROUNDS = 7
"""Rounds after which what is clearly slower drops out."""
BLOCK_S = 0.03
TOTAL_S = 5.0
WARM_CALLS = 3


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One backend in the choice: ``median_ms`` per call, or None and the ``reason`` why it was left out.

    ``settings`` are the options in which it differs from the config, where auto measures a backend in several ways.
    """

    backend: str
    median_ms: float | None = None
    max_abs_diff: float | None = None
    reason: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        name = _label(self.backend, self.settings)
        if self.reason is not None:
            return f"{name} left out: {self.reason}"
        return f"{name} {self.median_ms:.3g} ms" if self.median_ms else f"{name} not measured"


def _label(backend: str, settings: Mapping[str, Any]) -> str:
    return f"{backend} {describe(settings)}" if settings else backend


def _ways(name: str, config: InferenceConfig) -> list[dict[str, Any]]:
    """Return the settings in which auto measures a backend."""
    several = name == "onnxruntime" and config.spin is None and (config.threads or default_threads()) > 1
    return [{}, {"spin": False}] if several else [{}]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A loaded session, how it agreed with the reference, and the table it was chosen from, fastest first.

    ``first_call_s`` is None where nothing was run: without a reference, or with ``verify=False``.
    """

    backend: str
    session: BackingOff
    agreement: Agreement | None
    load_s: float
    first_call_s: float | None
    table: tuple[Candidate, ...]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def load(name: str, source: ModelSource, config: InferenceConfig) -> tuple[BackingOff, float]:
    """Load a model in one backend; also return the seconds it took, without the import of the runtime.

    Nor do they hold the time in which the model was tried in a process of its own.

    Raises
    ------
    EngineError
        If the model is quantized in a way that the backend does not run as such, or if there is no memory for it; the
        message says why.
    """
    reason = refusal(source.mode, name)
    if reason is not None:
        raise EngineError(f"{source.label} is quantized as {source.mode!r}: {reason}")
    backend = require_backend(name)
    start = time.perf_counter()
    try:
        loaded = backend.load(source, config)
    except WorkbenchError:
        raise
    except Exception as error:
        if (missing := memory_reason(error)) is None:
            raise
        raise EngineError(
            f"{name} ran out of memory while it loaded {source.label}: {missing}. Free what others hold, "
            "or use a smaller model or batch_size."
        ) from error
    seconds = time.perf_counter() - start - getattr(loaded, "tried_s", 0.0)
    if source.io.moves_batch:
        loaded = BatchFirst(loaded, source.io)
    whole = source.io.batch is not None or source.apart is not None
    return BackingOff(loaded, backend=name, fixed=whole), seconds


def load_checked(source: ModelSource, config: InferenceConfig) -> Choice:
    """Load a model in the configured backend and hold its outputs against the reference.

    Raises
    ------
    EngineError
        As :func:`load`, or if the outputs are too far from the reference.
    """
    choice = _load_agreeing(config.backend, source, config)
    if choice.agreement is not None and choice.agreement.problem:
        choice.session.close()
        raise EngineError(_disagrees(choice, source, choice.agreement.problem))
    return choice


def _load_agreeing(name: str, source: ModelSource, config: InferenceConfig) -> Choice:
    """Load and verify; where the precision is left open and 16 bits are too far off, once more in float32."""
    session, seconds = load(name, source, config)
    if config.strict:
        _require_as_asked(name, session, source, config)
    try:
        first = FirstCall(session)
        found = verify(first, session, source, config) if config.verify else None
    except Exception as error:
        session.close()
        raise EngineError(
            f"{name} cannot run {source.label} in {precision_of(session)}: {first_line(error)}"
        ) from error
    if (
        found is not None
        and found.problem
        and config.precision.compute == "auto"
        and precision_of(session) != "float32"
    ):
        session.close()
        choice = _load_agreeing(name, source, config.replace(precision=config.precision.replace(compute="float32")))
        note = fallen("auto", f"in {precision_of(session)} the {found.problem}").notes
        choice.session.notes = (*choice.session.notes, *note)
        return choice
    return Choice(name, session, found, seconds, first.seconds, ())


def _require_as_asked(name: str, session: Session, source: ModelSource, config: InferenceConfig) -> None:
    """Close the session and raise EngineError if it runs elsewhere, or in another precision, than the config says."""
    found = list(placement_of(session).fallbacks)
    wanted, taken = config.precision.compute, precision_of(session)
    if wanted not in ("auto", taken):
        found.append(f"computes in {taken}, not in {wanted}")
    if found:
        session.close()
        raise EngineError(
            f"{name} does not run {source.label} as asked, and strict=True: {'; '.join(found)}. "
            "Ask for what is there (workbench doctor), or leave strict at False and read engine.notes."
        )


def _disagrees(choice: Choice, source: ModelSource, problem: str) -> str:
    precision = precision_of(choice.session)
    if precision == "float32":
        has_torch = source.module is not None
        whom = (
            ("the simulation" if source.quantized else "torch") if has_torch else "ONNX Runtime without optimizations"
        )
        where = " wb.debug_accuracy(variant) names the layer." if source.quantized and has_torch else ""
        return (
            f"{choice.backend} gives other outputs than {whom} for {source.label}: {problem}.{where} Use another "
            "backend, or set InferenceConfig.tolerance (a share of the largest value) or verify=False if that is what "
            "you want."
        )
    return (
        f"{choice.backend} in {precision} is too far from the float model for {source.label}: {problem}. Use "
        f"precision='float32', or Precision({precision!r}, tolerance=...) (a share of the largest value) if so much is "
        "right."
    )


def choose(source: ModelSource, config: InferenceConfig) -> Choice:
    """Load the model in every candidate, measure them by turns and return the fastest that agrees, with the table.

    Raises
    ------
    EngineError
        If no backend runs the model; the reason of each is named.
    """
    loaded, left_out = _load_all(source, config)
    if not loaded:
        reasons = "; ".join(f"{c.backend}: {c.reason}" for c in left_out)
        raise EngineError(f"No backend can run {source.label} here. {reasons}")
    medians = _measure({label: choice.session for label, choice in loaded.items()}, source, config)
    ranked = sorted(loaded, key=lambda label: medians.get(label, 0.0))
    for label in ranked[1:]:
        loaded[label].session.close()
    table = [_row(loaded[label], medians.get(label)) for label in ranked]
    return dataclasses.replace(loaded[ranked[0]], table=(*table, *left_out))


def _row(choice: Choice, median_ms: float | None) -> Candidate:
    difference = choice.agreement.max_abs_diff if choice.agreement else None
    return Candidate(choice.backend, median_ms, difference, settings=choice.settings)


def _load_all(source: ModelSource, config: InferenceConfig) -> tuple[dict[str, Choice], list[Candidate]]:
    loaded: dict[str, Choice] = {}
    left_out: list[Candidate] = []
    for name in dict.fromkeys(config.candidates):
        for settings in _ways(name, config):
            try:
                choice = _load_agreeing(name, source, config.replace(**settings))
            except WorkbenchError as error:
                left_out.append(Candidate(name, reason=str(error)))
                break
            found = choice.agreement
            if found is not None and found.problem:
                choice.session.close()
                left_out.append(Candidate(name, max_abs_diff=found.max_abs_diff, reason=found.problem))
                break
            loaded[_label(name, settings)] = dataclasses.replace(choice, settings=settings)
    return loaded, left_out


def _measure(sessions: dict[str, Session], source: ModelSource, config: InferenceConfig) -> dict[str, float]:
    """Return the milliseconds of a call by backend, by interleaved timing.

    What is clearly slower than the fastest drops out, and the time goes to those that are near each other. The time of
    each is that of the fastest by their ratio in the rounds that both ran. Nothing is measured where there are no
    example inputs: the first backend is taken then.
    """
    if source.reference is None:
        return {}
    inputs = source.reference.tiled_inputs(source.io.batch or config.batch_size)
    for session in sessions.values():
        for _ in range(WARM_CALLS):
            session.run(inputs)
    arms = {name: CallArm(name, functools.partial(session.run, inputs)) for name, session in sessions.items()}
    times: dict[str, list[Block]] = {name: [] for name in sessions}
    left, end = list(sessions), time.perf_counter() + TOTAL_S
    while True:
        current = [arms[name] for name in left]
        timed = interleave(current, rounds=(2, ROUNDS), block_s=BLOCK_S, budget_s=end - time.perf_counter()).timed
        for name, blocks in timed.items():
            times[name] += blocks
        medians = {name: Timing.of(times[name]).p50 for name in left}
        best = min(left, key=lambda name: medians[name])
        left = [name for name in left if name == best or _time_ratio(times, name, best).low <= 1.0]
        if len(left) == 1 or time.perf_counter() > end:
            return {name: medians[best] * _time_ratio(times, name, best).ratio for name in sessions}


def _time_ratio(times: Mapping[str, list[Block]], name: str, best: str) -> PaceRatio:
    """Return the time of one backend over that of the best in the rounds that both ran, with its 95 % CI."""
    return pace_ratio(times[name], times[best][: len(times[name])])
