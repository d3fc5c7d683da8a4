"""Statistics against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats as scipy_stats

from workbench.core import stats


@pytest.mark.parametrize(("q", "first"), [(0.5, 6), (0.9, 36), (0.99, 368)])
def test_bounds_exist_from_the_textbook_sample_count_on(q: float, first: int) -> None:
    assert stats.quantile_bounds(first - 1, q) is None
    assert stats.quantile_bounds(first, q) is not None


@given(n=st.integers(6, 600), q=st.sampled_from([0.25, 0.5, 0.9, 0.99]))
def test_bounds_cover_the_quantile_and_are_tight(n: int, q: float) -> None:
    bounds = stats.quantile_bounds(n, q)
    binomial = scipy_stats.binom(n, q)
    if bounds is None:
        assert binomial.cdf(0) > 0.025 or binomial.sf(n - 1) > 0.025
        return
    low, high = bounds
    assert binomial.cdf(low) <= 0.025 + 1e-12 < binomial.cdf(low + 1) + 1e-9
    assert binomial.sf(high) <= 0.025 + 1e-12
    assert high == 0 or binomial.sf(high - 1) > 0.025 - 1e-12


def test_percentile_is_none_where_samples_do_not_resolve_it() -> None:
    assert stats.percentile(np.arange(35.0), 0.9) is None
    assert stats.percentile(np.arange(101.0), 0.9) == pytest.approx(90.0)


def test_ratio_interval_finds_a_known_ratio_and_cancels_drift() -> None:
    rng = np.random.default_rng(5)
    drift = np.linspace(1, 3, 20)
    base = [d * rng.lognormal(np.log(10), 0.05, 30) for d in drift]
    arm = [d * rng.lognormal(np.log(5), 0.05, 30) for d in drift]
    ratio, low, high = stats.ratio_interval(base, arm, seed=1)
    assert low < 2.0 < high
    assert ratio == pytest.approx(2.0, rel=0.03)
    assert (ratio, low, high) == stats.ratio_interval(base, arm, seed=1)


def test_ratio_interval_refuses_unpaired_blocks() -> None:
    block = np.ones(3)
    with pytest.raises(ValueError, match="got 2, 1"):
        stats.ratio_interval([block, block], [block])


@pytest.mark.parametrize(
    ("low", "high", "floor", "word"),
    [
        (1.2, 1.4, 0.02, "faster"),
        (0.7, 0.9, 0.02, "slower"),
        (0.99, 1.01, 0.02, "same"),
        (0.96, 1.04, 0.05, "same"),
        (0.96, 1.04, 0.02, "undecided"),
        (0.9, 1.3, 0.02, "undecided"),
        (0.999, 1.015, 0.0, "same"),
        (0.979, 1.021, 0.02, "same"),
        (0.97, 1.03, 0.02, "undecided"),
        (1.001, 1.015, 0.02, "faster"),
        (1.01, 1.4, 0.02, "faster"),
        (0.7, 0.99, 0.02, "slower"),
        (0.985, 0.999, 0.02, "slower"),
        (1.0, 1.3, 0.02, "undecided"),
        (0.7, 1.0, 0.02, "undecided"),
        (0.6, 1.01, 0.02, "undecided"),
        (0.5, 1.5, 0.4, "undecided"),
        (1 / 1.5, 1.5, 0.4, "same"),
    ],
)
def test_verdict_words(low: float, high: float, floor: float, word: str) -> None:
    assert stats.verdict(low, high, floor=floor) == word


def test_bootstrap_drop_encloses_the_true_drop() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(4000) < 0.95
    after = before & (rng.random(4000) < 0.98)
    low, high = stats.bootstrap_drop(lambda i: (before[i].mean(), after[i].mean()), 4000)
    assert low < before.mean() - after.mean() < high
    assert 0 < low < high < 0.05


def test_median_iqr_and_interval_agree_with_numpy_and_scipy() -> None:
    samples = np.random.default_rng(1).lognormal(size=200)
    middle, width = stats.median_iqr(samples)
    assert middle == pytest.approx(np.median(samples))
    assert width == pytest.approx(scipy_stats.iqr(samples))
    interval = stats.median_interval(samples)
    assert interval is not None
    assert interval[0] < middle < interval[1]
    assert stats.median_interval(samples[:5]) is None


@pytest.mark.parametrize(("level", "ends"), [(0.4, (1.0, 1.0)), (0.6, (0.0, 2.0))])
def test_bootstrap_median_has_the_quantiles_of_the_exact_distribution(level: float, ends: tuple[float, float]) -> None:
    """The median of three draws from (0, 1, 2) is 0 with probability 7/27, 1 with 13/27, 2 with 7/27."""
    assert stats.bootstrap_median([0, 1, 2], level=level) == (1.0, *ends)


def test_intervals_repeat_with_the_same_seed_and_differ_with_another() -> None:
    values = np.random.default_rng(3).normal(1.0, 0.1, 40)
    same = stats.bootstrap_median(values, seed=0, level=0.95, resamples=2000)
    assert stats.bootstrap_median(values) == same != stats.bootstrap_median(values, seed=1)

    def score(indices: np.ndarray) -> tuple[float, float]:
        return float(values[indices].mean()), 0.0

    drop = stats.bootstrap_drop(score, 40, seed=0, resamples=200, level=0.95)
    assert stats.bootstrap_drop(score, 40) == drop != stats.bootstrap_drop(score, 40, seed=1)


def test_ratio_interval_is_the_bootstrap_of_the_logs_of_two_blocks_or_more() -> None:
    rng = np.random.default_rng(4)
    base, arm = ([rng.lognormal(0.0, 0.2, 5) for _ in range(40)] for _ in range(2))
    logs = [float(np.log(np.median(b) / np.median(a))) for b, a in zip(base, arm, strict=True)]
    options: dict[str, float] = {"seed": 3, "level": 0.5, "resamples": 99}
    wanted = tuple(np.exp(stats.bootstrap_median(logs, **options)))
    assert stats.ratio_interval(base, arm, **options) == pytest.approx(wanted, rel=1e-12)
    for changed in ({"seed": 0}, {"level": 0.95}, {"resamples": 2000}):
        assert stats.ratio_interval(base, arm, **options | changed) != pytest.approx(wanted, rel=1e-12)
    defaults = stats.ratio_interval(base, arm, seed=0, level=0.95, resamples=2000)
    assert stats.ratio_interval(base, arm) == defaults
    assert stats.ratio_interval(base[:2], arm[:2])[0] > 0
    with pytest.raises(ValueError, match="at least 2; got 1, 1"):
        stats.ratio_interval(base[:1], arm[:1])


@pytest.mark.parametrize(("level", "ends"), [(0.4, (0.5, 0.5)), (0.9, (0.0, 1.0))])
def test_bootstrap_drop_has_the_quantiles_of_the_exact_distribution(level: float, ends: tuple[float, float]) -> None:
    """The mean of two draws from (0, 1) is 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4."""
    values = np.array([0.0, 1.0])
    drop = stats.bootstrap_drop(lambda i: (values[i].mean(), 0.0), 2, level=level, resamples=2000)
    assert drop == ends
