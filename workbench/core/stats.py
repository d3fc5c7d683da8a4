"""Statistics of noisy timings: order-statistic bounds, block bootstrap, verdicts. Distribution-free throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ASSUMED_NOISE = 0.02
"""Noise floor (relative) if the machine's own was not measured."""
_SAME = 1.25
Verdict = Literal["faster", "same", "slower", "undecided"]


def quantile_bounds(n: int, q: float, *, level: float = 0.95) -> tuple[int, int] | None:
    """Return 0-based ranks (low, high) of sorted samples that enclose quantile ``q`` with probability ``level``.

    Equal-tailed binomial bounds (David and Nagaraja, Order Statistics, 7.1); None if there are too few samples for a
    bound: p90 needs 36, p99 needs 368.
    """
    tail = (1 - level) / 2
    cdf = np.cumsum(_binomial_pmf(n, q))
    below = np.flatnonzero(cdf <= tail)  # ranks r with P(X <= r) <= tail: sample r is below the quantile
    above = np.flatnonzero(cdf[:n] >= 1 - tail)
    if below.size == 0 or above.size == 0:
        return None
    return int(below[-1]), int(above[0])


def percentile(samples: Sequence[float] | Array, q: float) -> float | None:
    """Return the ``q`` quantile (0 to 1), or None if the samples do not resolve it at 95 %."""
    values = np.asarray(samples, dtype=np.float64)
    if quantile_bounds(values.size, q) is None:
        return None
    return float(np.quantile(values, q))


def median_iqr(samples: Sequence[float] | Array) -> tuple[float, float]:
    """Return the median and the interquartile range, in the samples' unit."""
    low, middle, high = np.quantile(np.asarray(samples, dtype=np.float64), (0.25, 0.5, 0.75))
    return float(middle), float(high - low)


def median_interval(samples: Sequence[float] | Array, *, level: float = 0.95) -> tuple[float, float] | None:
    """Return the order-statistic interval of the median, or None for fewer than 6 samples."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    bounds = quantile_bounds(values.size, 0.5, level=level)
    return None if bounds is None else (float(values[bounds[0]]), float(values[bounds[1]]))


def ratio_interval(
    base: Sequence[Array], arm: Sequence[Array], *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float, float]:
    """Return (ratio, low, high) of base latency over arm latency: above 1 the arm is faster.

    ``base[i]`` and ``arm[i]`` are the samples of block ``i``, timed next to each other, so that slow drift of the
    machine cancels. The ratio is the median of the per-block ratios of medians; the interval is a percentile
    bootstrap over pairs of blocks (Efron and Tibshirani 1993, chapter 13).
    """
    if len(base) != len(arm) or len(base) < 2:
        raise ValueError(f"base and arm must have the same number of blocks, at least 2; got {len(base)}, {len(arm)}.")
    logs = np.log([np.median(b) for b in base]) - np.log([np.median(a) for a in arm])
    median, low, high = np.exp(bootstrap_median(logs, seed=seed, level=level, resamples=resamples))
    return float(median), float(low), float(high)


def bootstrap_median(
    values: Sequence[float] | Array, *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float, float]:
    """Return (median, low, high): the median with its percentile bootstrap (Efron and Tibshirani 1993, chapter 13)."""
    samples = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, samples.size, size=(resamples, samples.size))
    low, high = np.quantile(np.median(samples[picks], axis=1), ((1 - level) / 2, (1 + level) / 2))
    return float(np.median(samples)), float(low), float(high)


def verdict(low: float, high: float, *, floor: float = ASSUMED_NOISE) -> Verdict:
    """Return the verdict on a 95 % CI of the speedup, already widened for noise and disturbance.

    ``faster`` and ``slower`` need an interval that excludes 1, ``same`` one that includes 1 and lies within 2 %, or
    within 1.25 times the A/A noise floor. Anything else is ``undecided``.

    Examples
    --------
    >>> verdict(1.01, 1.08), verdict(0.98, 1.08), verdict(0.99, 1.01)
    ('faster', 'undecided', 'same')
    """
    width = max(_SAME * floor, ASSUMED_NOISE)
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    if low >= 1 / (1 + width) and high <= 1 + width:
        return "same"
    return "undecided"


def bootstrap_drop(
    score: Callable[[npt.NDArray[np.int64]], tuple[float, float]],
    n: int,
    *,
    seed: int = 0,
    resamples: int = 200,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the paired bootstrap CI of a quality drop, ``baseline - this``.

    ``score(indices)`` returns (baseline quality, this quality) on the same ``indices`` of the ``n`` examples.
    """
    rng = np.random.default_rng(seed)
    drops = []
    for _ in range(resamples):
        before, after = score(rng.integers(0, n, size=n))
        drops.append(before - after)
    low, high = np.quantile(drops, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _binomial_pmf(n: int, q: float) -> Array:
    k = np.arange(n + 1)
    log_choose = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k]
    return np.asarray(np.exp(np.array(log_choose) + k * math.log(q) + (n - k) * math.log1p(-q)))
