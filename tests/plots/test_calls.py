"""Bars of calls timed side by side."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.measure.comparison.calls import CallTime


def call(name: str, ms: float, ratio: float) -> CallTime:
    return CallTime(name, ms, ms * 0.9, ms * 1.1, 1000 / ms, ratio, ratio * 0.95, ratio * 1.05)


GROUPS = {
    "batch 1": [call("torch-eager", 4.0, 1.0), call("openvino", 1.0, 4.0)],
    "batch 32": [call("torch-eager", 90.0, 1.0), call("openvino", 60.0, 1.5)],
}


def test_the_data_is_one_row_a_call():
    frame = wb.plots.calls_data(GROUPS)
    assert list(frame["group"]) == ["batch 1", "batch 1", "batch 32", "batch 32"]
    assert list(frame["per_s"]) == [250, 1000, pytest.approx(11.11, abs=0.01), pytest.approx(16.67, abs=0.01)]


def test_bars_are_as_long_as_their_calls_and_say_their_ratio():
    figure = wb.plots.plot_calls(GROUPS)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [4.0, 1.0]
    words = [text.get_text() for text in right.texts]
    assert "90 ms" in words and "60 ms  1.50x (1.42-1.58)" in words
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["torch-eager", "openvino"]
    assert "(ms/" in left.get_xlabel()


def test_a_group_of_its_own_axes_and_nothing_to_draw():
    figure = wb.plots.plot_calls({})
    assert "No call" in figure.axes[0].texts[0].get_text()
    again = wb.plots.plot_calls(GROUPS, ax=figure.add_subplot())
    assert again is figure and len(again.axes) == 2


@pytest.mark.parametrize("groups", [GROUPS["batch 1"], None, {"batch 1": [3]}, {"batch 1": GROUPS["batch 1"][0]}])
def test_what_is_no_group_of_calls_is_refused(groups):
    with pytest.raises(ConfigError, match="plot_calls takes titles and the calls"):
        wb.plots.plot_calls(groups)


def test_the_axis_says_what_a_call_does():
    (ax,) = wb.plots.plot_calls({"a": [call("x", 2222.0, 1.0)]}, per="64 samples").axes
    assert "(ms/64 samples)" in ax.get_xlabel() and ax.texts[0].get_text() == "2,222 ms"


@pytest.mark.parametrize(
    "name", ["openvino", "a very long name of a setting that goes on, with spin=False, threads=12"]
)
def test_no_label_is_cut(name):
    figure = wb.plots.plot_calls(
        {**GROUPS, "more": [call("one", 4.0, 1.0), call(name, 3.0, 1.3)]}, title="A long title"
    )
    figure.canvas.draw()
    box = figure.bbox
    for ax in figure.axes:
        for text in ax.texts:
            extent = text.get_window_extent()
            assert extent.x1 <= box.x1 + 1 and extent.x0 >= box.x0 - 1, text.get_text()
