"""Estimate the latency of one arm, and the ratio of the undisturbed paces of two arms.

Load of other processes widens the CI of the ratio and adds no bias.
The undisturbed pace is the time per call while every runnable thread has a core. Three cases differ:

- Some calls are disturbed. The kernel counts how long threads waited for a core (``wait_ms``), so the median is taken
  over undisturbed calls if both arms have enough of them.
- Almost all calls are disturbed. The lowest tenth is taken, of groups of calls that last equally long in both arms: a
  short call fits between two slices of other work more often than a long one.
- Even the lowest tenth was disturbed. The slow-down of such calls is unknown, so the interval is widened by what the
  waiting allows; arms that waited alike are assumed to be slowed down alike up to a fifth of it.

Timing both arms at the same moment instead (Bulej and others, Duet benchmarking, ICPE 2020) needs as many free cores
as both have threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.core.stats import median_interval, median_iqr, percentile
from workbench.timing.blocks import MAX_WAIT, READ_MS, Block, Samples

UNDISTURBED = "median of undisturbed calls"
LOWEST = "lowest tenth of calls"
MIN_BLOCKS = 6
"""Fewer blocks do not bound a median at 95 % by order statistics."""
_MIN_CALLS = {"p90": (0.9, 36), "p99": (0.99, 368)}
_LOW = 0.1
_SLOWDOWN = 2.5
"""A call whose threads waited for its whole length took up to 1 + 2.5 times as long in experiments."""
_UNLIKE = 0.2
"""Share of their common slow-down by which two arms that waited alike may differ."""
_SHORTEST_GROUP = 0.999
_Logs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """Latency of one arm, in ms per call.

    ``p50`` is the median of the medians of blocks, and ``low``/``high`` bound it at 95 % by order statistics over them,
    because calls within a block are not independent. These three leave out calls that waited for a core if enough
    blocks have undisturbed ones; ``undisturbed`` is the share of those. The other figures are of all calls together. A
    figure that the samples do not resolve is None, and ``notes`` holds the reason.
    """

    blocks: tuple[Samples, ...]
    p50: float
    iqr: float
    low: float | None
    high: float | None
    p90: float | None
    p99: float | None
    notes: dict[str, str]
    undisturbed: float = 1.0

    @property
    def calls(self) -> int:
        """Number of calls that were timed."""
        return sum(block.size for block in self.blocks)

    @classmethod
    def of(cls, blocks: Sequence[Any]) -> Timing:
        """Summarize blocks, or lists of ms per call.

        Examples
        --------
        >>> timing = Timing.of([[1.0, 2.0, 3.0]] * 6)
        >>> timing.p50, timing.p99, timing.notes["p99"]
        (2.0, None, '18 calls do not resolve p99: 368 are needed.')
        """
        timed = [Block.of(block) for block in blocks]
        arrays = tuple(block.ms for block in timed)
        samples = np.concatenate(arrays)
        kept = [block.undisturbed_ms for block in timed]
        share = sum(ms.size for ms in kept) / samples.size
        enough = sum(ms.size > 0 for ms in kept) >= min(MIN_BLOCKS, len(timed))
        medians = [float(np.median(ms)) for ms in (kept if enough else arrays) if ms.size]
        iqr, bounds = median_iqr(samples)[1], median_interval(medians)
        notes = {} if bounds else {"low": f"{len(medians)} blocks do not bound the median: {MIN_BLOCKS} are needed."}
        if not enough:
            notes["p50"] = f"{1 - share:.0%} of the calls waited for a core, which raises their median."
        tails: dict[str, float | None] = {}
        for name, (q, minimum) in _MIN_CALLS.items():
            tails[name] = percentile(samples, q)
            if tails[name] is None:
                notes[name] = f"{samples.size} calls do not resolve {name}: {minimum} are needed."
        low, high = bounds or (None, None)
        return cls(arrays, float(np.median(medians)), iqr, low, high, tails["p90"], tails["p99"], notes, share)


@dataclass(frozen=True)
class PaceRatio:
    """Speedup of an arm over a base: base pace over arm pace, above 1 if the arm is faster.

    Attributes
    ----------
    ratio, low, high : float
        The estimate and its 95 % CI, widened by the noise floor and by the possible bias of disturbed calls.
    estimator : str
        ``"median of undisturbed calls"`` or ``"lowest tenth of calls"``.
    waited : (float, float)
        Share of the time that the calls of the estimate waited for a core, in base and arm.
    """

    ratio: float
    low: float
    high: float
    estimator: str
    waited: tuple[float, float] = (0.0, 0.0)

    def inverse(self) -> PaceRatio:
        """Return the ratio with base and arm exchanged."""
        return PaceRatio(1 / self.ratio, 1 / self.high, 1 / self.low, self.estimator, self.waited[::-1])


@dataclass(frozen=True)
class _Groups:
    """Groups of consecutive calls of one block: pace in ms per call, and share of the time waited."""

    ms: Samples
    waited: Samples

    @classmethod
    def of(cls, block: Block, size_ms: float) -> _Groups:
        """Group calls until they last ``size_ms``; an incomplete group is dropped unless it is the only one."""
        ends = np.cumsum(block.ms)
        waits = np.zeros_like(ends) if block.wait_ms is None else np.cumsum(block.wait_ms)
        cuts = [-1]
        for i, end in enumerate(ends):
            if end - (ends[cuts[-1]] if cuts[-1] >= 0 else 0.0) >= _SHORTEST_GROUP * size_ms:
                cuts.append(i)
        last = np.asarray(cuts[1:] or [len(ends) - 1])
        calls = np.diff(last, prepend=-1)
        spans, delays = np.diff(ends[last], prepend=0.0), np.diff(waits[last], prepend=0.0)
        return cls(spans / calls, delays / spans)

    @property
    def free(self) -> float:
        """Logarithm of the median pace of undisturbed groups, NaN if there is none."""
        kept = self.ms[self.waited <= MAX_WAIT]
        return float(np.log(np.median(kept))) if kept.size else math.nan


def pace_ratio(
    base: Sequence[Block], arm: Sequence[Block], *, floor: float = 0.0, seed: int = 0, resamples: int = 2000
) -> PaceRatio:
    """Estimate the speedup of an arm over a base, both undisturbed.

    Parameters
    ----------
    base, arm : sequence of Block
        Block ``i`` of each was timed in the same round.
    floor : float
        A/A noise floor (95 %), added to the interval as an independent error.

    Raises
    ------
    ValueError
        If the two have different numbers of blocks, or fewer than 2.

    Examples
    --------
    >>> fast, slow = Block.of([1.0, 1.0]), Block.of([2.0, 2.0])
    >>> pace_ratio([slow] * 6, [fast] * 6).ratio
    2.0
    """
    if len(base) != len(arm) or len(base) < 2:
        raise ValueError(f"Base and arm need equally many blocks, at least 2; got {len(base)} and {len(arm)}.")
    if base is arm:
        return PaceRatio(1.0, 1.0, 1.0, UNDISTURBED)
    size = max(READ_MS, *(float(np.median(np.concatenate([block.ms for block in one]))) for one in (base, arm)))
    pairs = [(_Groups.of(first, size), _Groups.of(second, size)) for first, second in zip(base, arm, strict=True)]
    rng = np.random.default_rng(seed)
    free = np.array([[first.free, second.free] for first, second in pairs])
    middle, drawn = _undisturbed(free, rng, resamples)
    if drawn is not None:
        low, high = _widened(middle, drawn, floor, (0.0, 0.0))
        return PaceRatio(math.exp(middle), math.exp(low), math.exp(high), UNDISTURBED)
    counts = rng.multinomial(len(pairs), [1 / len(pairs)] * len(pairs), size=resamples)
    (first, firsts, waited), (second, seconds, other) = (
        _lowest([pair[side] for pair in pairs], counts) for side in (0, 1)
    )
    low, high = _widened(first - second, firsts - seconds, floor, (waited, other))
    return PaceRatio(math.exp(first - second), math.exp(low), math.exp(high), LOWEST, (waited, other))


def _undisturbed(free: _Logs, rng: np.random.Generator, resamples: int) -> tuple[float, _Logs | None]:
    """Return the difference of the logarithms of undisturbed paces and its bootstrap; None if there are too few.

    Rounds in which both arms were undisturbed are compared one by one, because slow drift cancels there.
    """
    defined = ~np.isnan(free)
    both = defined.all(axis=1)
    if both.sum() >= max(min(MIN_BLOCKS, len(free)), len(free) / 2):
        steps = free[both, 0] - free[both, 1]
        return float(np.median(steps)), _medians(steps, rng, resamples)
    if defined.sum(axis=0).min() < MIN_BLOCKS:
        return math.nan, None
    sides = [free[defined[:, side], side] for side in (0, 1)]
    drawn = [_medians(side, rng, resamples) for side in sides]
    return float(np.median(sides[0]) - np.median(sides[1])), drawn[0] - drawn[1]


def _medians(values: _Logs, rng: np.random.Generator, resamples: int) -> _Logs:
    picks = rng.integers(0, values.size, size=(resamples, values.size))
    return np.asarray(np.median(values[picks], axis=1))


def _lowest(blocks: Sequence[_Groups], counts: npt.NDArray[np.int64]) -> tuple[float, _Logs, float]:
    """Return the logarithm of the lowest tenth over all groups, the same over resampled blocks, and the share waited.

    ``counts[i, j]`` is how often block ``j`` is in resample ``i``.
    """
    ms, waited = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("ms", "waited"))
    owner = np.repeat(np.arange(len(blocks)), [block.ms.size for block in blocks])
    order = np.argsort(ms, kind="stable")
    ms, waited, owner = ms[order], waited[order], owner[order]
    weights = np.cumsum(counts[:, owner], axis=1)
    ranks = (weights < _LOW * weights[:, -1:]).sum(axis=1)
    rank = max(math.ceil(_LOW * ms.size) - 1, 0)
    around = waited[: max(math.ceil(2 * _LOW * ms.size), 1)]
    return float(np.log(ms[rank])), np.log(ms[np.minimum(ranks, ms.size - 1)]), float(np.median(around))


def _widened(middle: float, drawn: _Logs, floor: float, waited: tuple[float, float]) -> tuple[float, float]:
    """Return the interval of the logarithm, widened by the noise floor and by the possible slow-down of waiting.

    A slow-down of the base lowers the true ratio, one of the arm raises it.
    """
    low, high = (float(value) for value in np.quantile(drawn, (0.025, 0.975)))
    apart = math.log1p(floor)
    slowed = [math.log1p(_SLOWDOWN * max(share - MAX_WAIT, 0.0)) for share in waited]
    alike = _UNLIKE * min(slowed)
    down, up = max(slowed[0] - slowed[1], 0.0) + alike, max(slowed[1] - slowed[0], 0.0) + alike
    return (
        middle - math.hypot(max(middle - low, 0.0), apart) - down,
        middle + math.hypot(max(high - middle, 0.0), apart) + up,
    )
