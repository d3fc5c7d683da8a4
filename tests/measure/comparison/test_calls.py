"""Calls timed side by side: which is the longer, what cannot be timed."""

from __future__ import annotations

import time

import pytest

import workbench as wb
from workbench.core.errors import ConfigError

QUICK = {"block_s": 0.01, "settle_s": 0.0, "budget_s": 0.5}


def test_the_first_is_the_reference_and_longer_sleeps_are_seen():
    calls = {"one": lambda: time.sleep(0.004), "four": lambda: time.sleep(0.016)}
    one, four = wb.time_calls(calls, samples=8, rounds=(6, 6), **QUICK)
    assert (one.name, one.ratio) == ("one", 1.0)
    assert four.ms > one.ms >= 4 and four.ratio < 0.6
    assert four.ratio_low <= four.ratio <= four.ratio_high and four.low_ms <= four.ms <= four.high_ms
    assert one.per_s == pytest.approx(8e3 / one.ms)
    assert str(one).endswith("the baseline") and "slower than the baseline" in str(four)


def test_every_block_of_every_call_is_in_one_run():
    order = []
    wb.time_calls({name: lambda n=name: order.append(n) or time.sleep(0.001) for name in "abc"}, rounds=(6, 6), **QUICK)
    assert set(order[-200:]) >= {"a", "b", "c"} or len(order) < 200


@pytest.mark.parametrize(
    ("calls", "options", "words"),
    [
        ({}, {}, "at least one name"),
        ([1], {}, "mapping"),
        ({"a": 3}, {}, "'a'"),
        ({"a": list}, {"samples": 0}, "samples"),
        ({"a": list}, {"rounds": (2, 9)}, "6 <= min <= max"),
        ({"a": list}, {"budget_s": 0}, "above 0"),
        ({"a": list}, {"budget_s": "1"}, "budget_s must be a number of seconds above 0"),
        ({"a": list}, {"budget_s": float("nan")}, "budget_s"),
        ({"a": list}, {"settle_s": -1}, "settle_s must be a number of seconds of at least 0"),
        ({"a": list}, {"rounds": 5}, "rounds must be"),
        ({"a": list}, {"rounds": ("1", "2")}, "rounds must be"),
        ({"a": list}, {"seed": "x"}, "seed"),
        ({1: list}, {}, "one name to a function"),
    ],
)
def test_what_cannot_be_timed_is_refused(calls, options, words):
    with pytest.raises(ConfigError, match=words):
        wb.time_calls(calls, **options)


def test_an_error_of_a_call_goes_through():
    def broken() -> None:
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        wb.time_calls({"a": broken}, **QUICK)
