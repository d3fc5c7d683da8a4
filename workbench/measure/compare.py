"""Compare two engines that are open in this process: a ratio with its interval, and a verdict in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from workbench.core.errors import ConfigError, InputError
from workbench.core.stats import Verdict, ratio_interval, verdict
from workbench.measure.timing import BLOCK_S, CallArm, Samples, Timing, interleave

_NARROW = 0.05


class Engine(Protocol):
    """What is needed of an engine: the OptimizedInferenceEngine has it."""

    def predict(self, inputs: Any) -> Any:
        """Run one batch."""


@dataclass(frozen=True)
class Comparison:
    """Two engines timed in turns on the same inputs.

    ``ratio`` is baseline latency over candidate latency (above 1: the candidate is faster), ``low`` and ``high``
    bound it at 95 %. ``notes`` holds what a reader must know, for instance different thread counts.
    """

    baseline_name: str
    candidate_name: str
    baseline: Timing
    candidate: Timing
    ratio: float
    low: float
    high: float
    verdict: Verdict
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        words = {
            "faster": "faster than",
            "slower": "slower than",
            "same": "as fast as",
            "undecided": "not told apart from",
        }
        lines = [
            f"{self.candidate_name} is {words[self.verdict]} {self.baseline_name}: {self.ratio:.2f}x "
            f"(95 % interval {self.low:.2f} to {self.high:.2f})",
            *(
                f"  {name}: median {t.p50:.3f} ms, IQR {t.iqr:.3f} ms, {t.calls} calls in {len(t.blocks)} blocks"
                for name, t in ((self.baseline_name, self.baseline), (self.candidate_name, self.candidate))
            ),
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def compare(
    baseline: Engine,
    candidate: Engine,
    inputs: Any,
    *,
    budget_s: float = 10.0,
    block_s: float = BLOCK_S,
    rounds: tuple[int, int] = (6, 30),
    floor: float = 0.02,
    seed: int = 0,
) -> Comparison:
    """Time two engines in turns on one batch until the interval of their ratio is narrow.

    Parameters
    ----------
    baseline, candidate : engine
        Both initialised, with the same number of threads.
    inputs : array, tuple or dict
        One batch ``[n, ...]`` in the structure the engines take.
    budget_s : float
        No further round starts after this many seconds.
    floor : float
        Differences up to this share count as noise (the A-A floor of the machine, at least 2 %).

    Raises
    ------
    ConfigError
        If ``rounds`` is not (least, most) with 2 <= least <= most, or a time is not positive.
    InputError
        If both are the same engine.

    Examples
    --------
    >>> wb.compare(eager, fast, task.examples(16))  # doctest: +SKIP
    onnxruntime is faster than torch-eager: 2.31x (95 % interval 2.24 to 2.40)
    """
    if not 2 <= rounds[0] <= rounds[1]:
        raise ConfigError(f"compare: rounds must be (least, most) with 2 <= least <= most, got {rounds!r}.")
    if budget_s <= 0 or block_s <= 0:
        raise ConfigError(f"compare: budget_s and block_s must be above 0, got {budget_s!r} and {block_s!r}.")
    if baseline is candidate:
        raise InputError("compare: baseline and candidate are the same engine; open two to see the noise floor.")
    names = _names(baseline, candidate)
    arms = [
        CallArm(name, lambda engine=engine: engine.predict(inputs))  # type: ignore[misc]
        for name, engine in zip(names, (baseline, candidate), strict=True)
    ]
    for arm in arms:
        arm.warm()

    def narrow(blocks: Any) -> bool:
        _, low, high = ratio_interval(blocks[names[0]], blocks[names[1]], seed=seed, resamples=500)
        return high / low < 1 + _NARROW

    timed = interleave(arms, rounds=rounds, block_s=block_s, budget_s=budget_s, seed=seed, enough=narrow)
    return _comparison(names, timed.blocks, floor, seed, _notes(baseline, candidate))


def _comparison(
    names: tuple[str, str], blocks: dict[str, list[Samples]], floor: float, seed: int, notes: tuple[str, ...]
) -> Comparison:
    first, second = blocks[names[0]], blocks[names[1]]
    ratio, low, high = ratio_interval(first, second, seed=seed)
    word = verdict(low, high, floor=floor)
    return Comparison(*names, Timing.of(first), Timing.of(second), ratio, low, high, word, notes)


def _names(baseline: Engine, candidate: Engine) -> tuple[str, str]:
    first, second = (str(getattr(e, "backend", type(e).__name__)) for e in (baseline, candidate))
    return (first, second) if first != second else (f"{first} (baseline)", f"{second} (candidate)")


def _notes(baseline: Engine, candidate: Engine) -> tuple[str, ...]:
    threads = [getattr(e, "threads", None) for e in (baseline, candidate)]
    if threads[0] != threads[1]:
        return (f"threads differ: {threads[0]} for the baseline, {threads[1]} for the candidate.",)
    return ()
