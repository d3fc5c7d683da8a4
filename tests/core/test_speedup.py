"""The text of a speedup: its form, and that it claims no more than the interval supports."""

import re

import pytest

from workbench.core.format.speedup import WIDE, row_speedup, speedup_text


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ((4.2, 3.9, 4.5, "faster"), "faster", "4.2x speedup (95 % CI 3.9-4.5)"),
        ((1.05, 1.03, 1.08, "faster"), "faster", "1.05x speedup (95 % CI 1.03-1.08)"),
        ((34.1, 32.0, 40.3, "faster"), "faster", "34x speedup (95 % CI 32-40)"),
        ((5.0, 3.9, 8.1, "faster"), "at least", "at least 3.9x speedup (95 % CI 3.9-8.1)"),
        ((1.1, 0.9, 1.3, "undecided"), "undecided", "speedup not decided (95 % CI 0.9-1.3)"),
        ((5.8, 4.73, 6.89, "undecided"), "undecided", "speedup not decided (95 % CI 4.7-6.9)"),
        ((0.62, 0.58, 0.66, "slower"), "slower", "0.62x speedup (95 % CI 0.58-0.66), slower than the baseline"),
        ((0.5, 0.3, 0.8, "slower"), "at most", "at most 0.8x speedup (95 % CI 0.3-0.8), slower than the baseline"),
        ((1.01, 0.99, 1.02, "same"), "same", "same speed as the baseline (95 % CI 0.99-1.02)"),
        ((2.0, None, None, "faster"), "no interval", "2x speedup (no 95 % CI)"),
        ((2.0, None, None, "undecided"), "undecided", "speedup not decided"),
        ((None, None, None, None), "not measured", "speedup not measured"),
        ((float("nan"), 1.0, 2.0, None), "not measured", "speedup not measured"),
    ],
)
def test_forms(given, kind, text):
    found = speedup_text(*given)
    assert (found.kind, str(found)) == (kind, text)


@pytest.mark.parametrize("low", [0.05, 0.4, 0.7, 0.93, 0.99, 1.004, 1.04, 1.3, 3.1, 17.0, 140.0])
@pytest.mark.parametrize("span", [1.002, 1.02, 1.1, 1.4, 1.6, 3.0, 12.0])
def test_every_figure_lies_in_the_interval_as_shown_and_on_its_side_of_one(low, span):
    high, ratio = low * span, low * span**0.5
    found = speedup_text(ratio, low, high)
    shown = [float(value) for value in found.interval.split("-")]
    assert shown[0] <= shown[1]
    if found.kind == "undecided":
        assert low <= 1 <= high and found.figure == "not decided"
        return
    (figure,) = map(float, re.findall(r"[\d.]+", found.figure))
    assert shown[0] <= figure <= shown[1]
    assert (shown[0] > 1) == (low > 1) and (shown[1] < 1) == (high < 1)
    assert (found.kind in ("at least", "at most")) == (high > WIDE * low)


def test_a_verdict_that_the_interval_does_not_support_is_not_repeated():
    assert speedup_text(1.2, 0.9, 1.6, "faster").kind == "undecided"


def test_the_baseline_has_no_speedup_of_its_own():
    row = {"speedup": 1.0, "speedup_low": 0.9, "speedup_high": 1.1, "verdict": "same"}
    assert row_speedup({**row, "baseline": True}).kind == "baseline"
    assert row_speedup(row).interval == "0.90-1.10"
