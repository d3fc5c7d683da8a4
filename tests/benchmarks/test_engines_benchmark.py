"""The engines benchmark's judgement and table, on lines of known speed."""

from __future__ import annotations

import pytest

from benchmarks.engines import Line, page, table


def line(arm: str, ms: float, low: float, high: float) -> Line:
    return Line("net", 8, arm, ms, 0.5, (low + high) / 2, low, high, "took openvino" if arm == "auto" else "")


@pytest.mark.parametrize(
    ("arm", "low", "high", "fine"),
    [
        ("auto", 0.9, 1.0, True),
        ("auto", 1.01, 1.3, True),
        ("auto", 1.021, 1.03, False),
        ("auto 16 bits", 1.021, 1.03, False),
        ("torch-eager", 3.0, 4.0, True),
    ],
)
def test_only_auto_is_judged_and_by_the_low_end(arm, low, high, fine):
    assert line(arm, 2.0, low, high).fine is fine


def test_the_fastest_comes_first_and_all_figures_are_there():
    rows = table([line("eager by hand", 9.0, 3.0, 3.2), line("auto", 2.96, 0.98, 1.01)]).splitlines()
    assert rows[2] == "| net | 8 | auto | 2.96 | 50% | 0.995 (0.980 to 1.010) | took openvino |"
    assert "eager by hand" in rows[3]


def test_what_could_not_run_is_named():
    text = page([line("auto", 2.0, 0.9, 1.0)], {"net, batch 8, torchscript": "it branches"}, 123.4, 2)
    assert "- net, batch 8, torchscript: it branches" in text and "at 123 GFLOP/s" in text
