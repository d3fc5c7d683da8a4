"""The estimator against paces that are known: calls are made up, with the disturbance that a scheduler adds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench.timing.blocks import Block
from workbench.timing.pace import LOWEST, UNDISTURBED, PaceRatio, pace_ratio


def blocks(
    ms: float, rng: np.random.Generator, *, rounds: int = 20, busy: float = 0.0, length_ms: float = 60.0
) -> list:
    """Calls of ``ms`` with 1 % of noise; in a share ``busy`` of slices of 3 ms a thread waits for another slice."""
    made = []
    for _ in range(rounds):
        count = max(1, int(length_ms / ms))
        calls = ms * rng.lognormal(0.0, 0.01, count)
        slices = rng.binomial(np.maximum(np.ceil(calls / 3.0), 1).astype(int), busy)
        waits = 3.0 * slices
        made.append(Block(calls + waits, waits))
    return made


def test_a_quiet_ratio_is_that_of_medians() -> None:
    rng = np.random.default_rng(0)
    found = pace_ratio(blocks(6.0, rng), blocks(4.0, rng), floor=0.01)
    assert found.estimator == UNDISTURBED
    assert found.low < 1.5 < found.high
    assert found.high / found.low < 1.05
    assert found.waited == (0.0, 0.0)


@pytest.mark.parametrize("busy", [0.3, 0.5])
def test_disturbed_calls_of_one_arm_do_not_move_the_ratio(busy: float) -> None:
    rng = np.random.default_rng(1)
    base, arm = blocks(4.0, rng, busy=busy), blocks(4.0, rng)
    plain = np.median([np.median(b.ms) for b in base]) / np.median([np.median(a.ms) for a in arm])
    found = pace_ratio(base, arm, floor=0.01)
    assert plain > 1.3  # what medians say
    assert found.low < 1.0 < found.high
    assert found.high / found.low < 1.1


def test_almost_always_disturbed_calls_are_judged_by_their_lowest_tenth() -> None:
    rng = np.random.default_rng(2)
    found = pace_ratio(blocks(24.0, rng, busy=0.8), blocks(6.0, rng, busy=0.8))
    assert found.estimator == LOWEST
    assert found.waited[0] > 0.05
    assert found.low < 4.0 < found.high
    assert found.low > 1.0  # decided


def test_what_waiting_may_hide_widens_only_the_side_that_it_can_be_on() -> None:
    rng = np.random.default_rng(3)
    free, disturbed = blocks(30.0, rng), blocks(30.0, rng, busy=1.0)
    slowed_arm = pace_ratio(free, disturbed)
    assert slowed_arm.ratio < 0.6
    assert slowed_arm.high > 1.0  # undisturbed, the arm may well be as fast
    assert slowed_arm.high / slowed_arm.ratio > slowed_arm.ratio / slowed_arm.low
    slowed_base = pace_ratio(disturbed, free)
    assert slowed_base.ratio > 1.6
    assert slowed_base.low < 1.0  # a disturbed baseline makes nobody faster


def test_the_noise_floor_joins_as_an_independent_error() -> None:
    same = [Block.of([2.0, 2.0])] * 8
    assert pace_ratio(same, same, floor=0.02) == PaceRatio(1.0, 1.0, 1.0, UNDISTURBED)
    found = pace_ratio(same, list(same), floor=0.02)
    assert found.ratio == 1.0
    assert found.high == pytest.approx(1.02)
    assert found.low == pytest.approx(1 / 1.02)
    rng = np.random.default_rng(4)
    base, arm = blocks(5.0, rng), blocks(4.0, rng)
    bare, widened = pace_ratio(base, arm), pace_ratio(base, arm, floor=0.03)
    expected = math.hypot(math.log(bare.high / bare.ratio), math.log(1.03))
    assert math.log(widened.high / widened.ratio) == pytest.approx(expected)


def test_the_interval_holds_the_truth_in_most_of_many_pairs() -> None:
    for busy, low in ((0.0, 0.9), (0.4, 0.9), (0.9, 0.9)):
        held = 0
        for seed in range(60):
            rng = np.random.default_rng(seed)
            found = pace_ratio(blocks(7.5, rng, busy=busy), blocks(5.0, rng, busy=busy), floor=0.01, resamples=300)
            held += found.low <= 1.5 <= found.high
        assert held >= low * 60


def test_the_order_of_the_two_arms_only_inverts() -> None:
    rng = np.random.default_rng(5)
    base, arm = blocks(5.0, rng, busy=0.9), blocks(15.0, rng, busy=0.9)
    one, other = pace_ratio(base, arm), pace_ratio(arm, base).inverse()
    assert one.ratio == pytest.approx(other.ratio)
    assert one.waited == other.waited
    assert isinstance(other, PaceRatio)


def test_without_counters_calls_count_as_undisturbed() -> None:
    found = pace_ratio([Block.of([3.0])] * 6, [Block.of([1.0])] * 6)
    assert (found.ratio, found.estimator) == (pytest.approx(3.0), UNDISTURBED)


@pytest.mark.parametrize(("base", "arm"), [(1, 1), (6, 5), (0, 0)])
def test_unpaired_blocks_are_refused(base: int, arm: int) -> None:
    with pytest.raises(ValueError, match="equally many blocks"):
        pace_ratio([Block.of([1.0])] * base, [Block.of([1.0])] * arm)
