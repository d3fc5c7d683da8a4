"""Calls timed in the same rounds as bars, lines over a setting, and bars of amounts."""

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


def batch_call(ms: float, samples: int) -> CallTime:
    return CallTime("x", ms, ms / 2, ms * 2, 1000 * samples / ms, 1.0, 1.0, 1.0)


LINES = {
    "eager": {8: batch_call(10.0, 8), 1: batch_call(2.0, 1)},
    "openvino": {1: batch_call(1.0, 1), 8: batch_call(4.0, 8)},
}


def test_the_data_is_in_the_settings_order_with_intervals():
    frame = wb.plots.sweep_data(LINES)
    assert list(frame["setting"]) == [1, 8, 1, 8]
    assert list(frame["per_s"]) == [500, 800, 1000, 2000]
    assert list(frame["low_per_s"]) == [250, 400, 500, 1000] and list(frame["high_per_s"]) == [1000, 1600, 2000, 4000]


def test_a_line_for_each_name_with_its_word_inside_the_figure():
    figure = wb.plots.plot_sweep(LINES, setting="threads")
    (ax,) = figure.axes
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[500, 800], [1000, 2000]]
    assert ax.get_xlabel() == "threads" and "samples/s" in ax.get_ylabel()
    assert {"eager", "openvino"} <= {text.get_text() for text in ax.texts}
    figure.canvas.draw()
    for text in ax.texts:
        extent = text.get_window_extent()
        assert extent.x1 <= figure.bbox.x1 + 1 and extent.x0 >= figure.bbox.x0 - 1, text.get_text()
    assert "No call" in wb.plots.plot_sweep({}).axes[0].texts[0].get_text()


def test_bars_of_amounts():
    amounts = {"new arrays": 128.0, "out=": 0.0}
    (ax,) = wb.plots.plot_bars(amounts, unit="KiB", title="Memory of one call").axes
    assert [bar.get_width() for bar in ax.patches] == [128.0, 0.0]
    assert [text.get_text() for text in ax.texts] == ["128 KiB", "0 KiB"] and ax.get_xlabel() == "Amount (KiB) ↓"
    figure = wb.plots.plot_bars({}, unit="KiB", title="Memory")
    assert "No amount" in figure.axes[0].texts[0].get_text()
    assert wb.plots.plot_bars({"one": 0.0}, unit="KiB", title="x", ax=figure.add_subplot()) is figure


@pytest.mark.parametrize(
    "lines", [None, [], {"a": [batch_call(1.0, 1)]}, {"a": {"x": batch_call(1.0, 1)}}, {"a": {1: 3}}]
)
def test_what_is_no_line_is_refused(lines):
    with pytest.raises(ConfigError, match="plot_sweep takes for each name"):
        wb.plots.plot_sweep(lines)


@pytest.mark.parametrize("amount", ["x", -1.0, float("nan"), True, None])
def test_what_is_no_amount_is_refused(amount):
    with pytest.raises(ConfigError, match="'a' must be a number of at least 0"):
        wb.plots.plot_bars({"a": amount}, unit="KiB", title="Memory")


def test_a_backend_has_one_color_in_every_chart():
    first = wb.plots.plot_sweep({"openvino": {1: batch_call(1.0, 1)}}).axes[0].lines[0].get_color()
    assert wb.plots.plot_sweep(LINES).axes[0].lines[1].get_color() == first


@pytest.mark.parametrize("settings", [(1,), (1, 2, 3), (0, 5)])
def test_any_settings_can_be_drawn(settings):
    figure = wb.plots.plot_sweep({"a": {setting: batch_call(1.0, 1) for setting in settings}})
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [str(s) for s in settings]
