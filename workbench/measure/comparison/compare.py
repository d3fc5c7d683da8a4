"""Compare two open engines: speedup with its 95 % CI, and a verdict."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workbench.core.checks import given, require_engine, require_int, require_nonnegative, require_positive
from workbench.core.errors import ConfigError, InputError
from workbench.core.format.speedup import speedup_text
from workbench.core.stats import ASSUMED_NOISE, Verdict, verdict
from workbench.engine.backends.base import runs_on_gpu
from workbench.measure.comparison.noise import cached_noise, floor_of, noise_text
from workbench.timing.blocks import Block, usage_per_call
from workbench.timing.conditions import Conditions, LoadMonitor
from workbench.timing.interleave import CallArm, block_seconds, check_rounds, interleave
from workbench.timing.pace import Timing, pace_ratio

_NARROW = 0.5
"""Share of the noise floor: a narrower interval of one pair of sessions holds no more information."""
MANY_FAULTS = 100.0
"""Page faults per call above which a row or a comparison has a note: each takes about a microsecond."""


class Engine(Protocol):
    """The method that a comparison calls; OptimizedInferenceEngine has it."""

    def predict(self, inputs: Any) -> Any: ...


@dataclass(frozen=True)
class Comparison:
    """Interleaved timing of two engines on the same inputs.

    ``ratio`` is the speedup: undisturbed baseline latency over candidate latency by ``estimator``. ``low`` and ``high``
    are its 95 % CI, widened by the A/A noise ``floor`` (``noise`` holds its source) and by the possible bias of
    disturbed calls. The verdict is faster or slower if the interval excludes 1. ``notes`` holds caveats, such as
    different thread counts, page faults in every call, or other processes that disturbed the timing.
    """

    baseline_name: str
    candidate_name: str
    baseline: Timing
    candidate: Timing
    ratio: float
    low: float
    high: float
    verdict: Verdict
    floor: float = ASSUMED_NOISE
    noise: str = ""
    notes: tuple[str, ...] = ()
    conditions: Conditions | None = None
    estimator: str = ""

    def __repr__(self) -> str:
        speedup = speedup_text(self.ratio, self.low, self.high, self.verdict)
        disturbed = "; disturbed" if self.conditions is not None and self.conditions.reasons else ""
        lines = [
            f"{self.candidate_name}: {speedup.over(self.baseline_name)}{disturbed}",
            *(
                f"  {name}: median {t.p50:.3f} ms, IQR {t.iqr:.3f} ms, {t.calls} calls in {len(t.blocks)} blocks"
                for name, t in ((self.baseline_name, self.baseline), (self.candidate_name, self.candidate))
            ),
            *([f"  {self.noise}"] if self.noise else []),
            *([f"  system load: {self.conditions}"] if self.conditions is not None else []),
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def compare(
    baseline: Engine,
    candidate: Engine,
    inputs: Any,
    *,
    budget_s: float = 10.0,
    block_s: float | None = None,
    rounds: tuple[int, int] = (8, 60),
    floor: float | None = None,
    seed: int = 0,
) -> Comparison:
    """Time two engines interleaved on one batch until the 95 % CI of the speedup is narrow.

    Parameters
    ----------
    baseline, candidate : engine
        Both initialized, with the same number of threads.
    inputs : array, tuple or dict
        One batch ``[n, ...]`` in the structure of the engines' inputs.
    budget_s : float
        No further round starts that would end later, warm-up included; ``rounds[0]`` rounds are always timed.
    block_s : float, optional
        Seconds of one block; by default five calls of the slower engine, within limits.
    floor : float, optional
        A/A noise floor as a share; by default the cached result of :func:`workbench.measure_noise`, otherwise 2 %.

    Examples
    --------
    >>> wb.compare(eager, fast, task.examples(16))  # doctest: +SKIP
    onnxruntime: 2.31x speedup over torch-eager (95 % CI 2.24-2.40)
    """
    check_rounds("compare", rounds)
    require_positive("compare: budget_s", budget_s, unit="seconds")
    if block_s is not None:
        require_positive("compare: block_s", block_s, unit="seconds")
    if floor is not None and not require_nonnegative("compare: floor", floor, unit="share") < 1:
        raise ConfigError(f"compare: floor must be in [0, 1), such as 0.02, got {given(floor)}.")
    require_int("compare: seed", seed, minimum=0)
    for name, engine in (("baseline", baseline), ("candidate", candidate)):
        require_engine(f"compare: {name}", engine)
    if baseline is candidate:
        raise InputError("compare: baseline and candidate must be different engines. Open two for an A/A test.")
    if floor is None:
        cached = cached_noise()
        share, noise = floor_of(cached), noise_text(cached)
    else:
        share, noise = floor, f"noise floor {100 * floor:.1f} % (given)"
    end = time.perf_counter() + budget_s
    watch = LoadMonitor(gpu=any(runs_on_gpu(getattr(engine, "placement", "")) for engine in (baseline, candidate)))
    names = _names(baseline, candidate)
    arms = [
        CallArm(name, lambda engine=engine: engine.predict(inputs))  # type: ignore[misc]
        for name, engine in zip(names, (baseline, candidate), strict=True)
    ]
    for arm in arms:
        arm.warm()

    def narrow(blocks: Any) -> bool:
        pace = pace_ratio(blocks[names[0]], blocks[names[1]], seed=seed, resamples=500)
        return pace.high / pace.low < 1 + _NARROW * share

    length, left = block_s or block_seconds(arms), end - time.perf_counter()
    timed = interleave(arms, rounds=rounds, block_s=length, budget_s=left, seed=seed, enough=narrow, monitor=watch)
    first, second = timed.timed[names[0]], timed.timed[names[1]]
    notes = (*_notes(baseline, candidate), *fault_notes(timed.timed), *timed.notes)
    pace = pace_ratio(first, second, floor=share, seed=seed)
    decided = verdict(pace.low, pace.high, floor=share)
    return Comparison(
        *names, Timing.of(first), Timing.of(second), pace.ratio, pace.low, pace.high, decided, share, noise, notes,
        timed.conditions, pace.estimator,
    )  # fmt: skip


def fault_notes(timed: Mapping[str, Sequence[Block]]) -> tuple[str, ...]:
    """Return a note for each arm with many page faults per call."""
    notes = []
    for name, blocks in timed.items():
        faults, _ = usage_per_call(blocks)
        if faults is not None and faults > MANY_FAULTS:
            notes.append(
                f"{name}: {faults:.0f} page faults per call, because its allocator returns memory to the kernel. Use "
                "InferenceConfig(allocator='steady')."
            )
    return tuple(notes)


def _names(baseline: Engine, candidate: Engine) -> tuple[str, str]:
    first, second = (str(getattr(e, "backend", type(e).__name__)) for e in (baseline, candidate))
    return (first, second) if first != second else (f"{first} (baseline)", f"{second} (candidate)")


def _notes(baseline: Engine, candidate: Engine) -> tuple[str, ...]:
    threads = [getattr(e, "threads", None) for e in (baseline, candidate)]
    if threads[0] != threads[1]:
        return (f"threads differ: {threads[0]} for the baseline, {threads[1]} for the candidate.",)
    return ()
