"""Tests of what the measurement benchmark concludes from its figures."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.measurement_tools import CLOSE, Beside, p90_interval, settled

PACES = np.repeat([0.7, 1.4, 0.7, 1.4], 10)


def turns(share: float, *, seed: int) -> list[np.ndarray]:
    """Return calls of a machine that changes its pace between turns, a share longer than they are."""
    rng = np.random.default_rng(seed)
    return [pace * (1 + share) * rng.lognormal(sigma=0.05, size=100) for pace in PACES]


def test_settled_leaves_out_the_first_fifty_milliseconds() -> None:
    latencies = np.full(100, 2.0)
    assert settled(latencies).size == 100 - 25


def test_two_tools_that_time_the_same_agree_on_a_machine_of_two_paces() -> None:
    one = Beside("digits_vit", True, "onnxruntime", turns(0, seed=1), turns(0, seed=2), turns(0.02, seed=3))
    share, low, high = one.apart(one.by_torch)
    assert low < 0.02 < high and share == pytest.approx(0.02, abs=0.01)
    assert one.fine


def test_a_tool_that_times_more_is_told() -> None:
    one = Beside("digits_vit", True, "onnxruntime", turns(0, seed=1), turns(0, seed=2), turns(2 * CLOSE, seed=3))
    assert not one.fine


def test_the_interval_of_the_90th_percentile_holds_the_true_one() -> None:
    low, high = p90_interval(turns(0, seed=4))
    both = np.concatenate([pace * np.random.default_rng(5).lognormal(sigma=0.05, size=100_000) for pace in (0.7, 1.4)])
    assert low <= np.quantile(both, 0.9) <= high


def test_percentiles_that_do_not_meet_are_told() -> None:
    late = [np.where(np.arange(calls.size) < 0.3 * calls.size, 3 * calls, calls) for calls in turns(0, seed=6)]
    tools = (turns(0, seed=7), late, turns(0, seed=8))
    assert not Beside("digits_vit_wide", True, "openvino", *tools).fine


def test_percentiles_of_short_calls_are_shown_and_not_judged() -> None:
    later = [1.03 * calls for calls in turns(0, seed=6)]
    one = Beside("digits_vit", False, "openvino", turns(0, seed=6), later, turns(0, seed=8))
    assert one.fine
