"""Lines over a setting, and bars of amounts."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.measure.comparison.calls import CallTime


def call(ms: float, samples: int) -> CallTime:
    return CallTime("x", ms, ms / 2, ms * 2, 1000 * samples / ms, 1.0, 1.0, 1.0)


LINES = {"eager": {8: call(10.0, 8), 1: call(2.0, 1)}, "openvino": {1: call(1.0, 1), 8: call(4.0, 8)}}


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


@pytest.mark.parametrize("lines", [None, [], {"a": [call(1.0, 1)]}, {"a": {"x": call(1.0, 1)}}, {"a": {1: 3}}])
def test_what_is_no_line_is_refused(lines):
    with pytest.raises(ConfigError, match="plot_sweep takes for each name"):
        wb.plots.plot_sweep(lines)


@pytest.mark.parametrize("amount", ["x", -1.0, float("nan"), True, None])
def test_what_is_no_amount_is_refused(amount):
    with pytest.raises(ConfigError, match="'a' must be a number of at least 0"):
        wb.plots.plot_bars({"a": amount}, unit="KiB", title="Memory")


def test_a_backend_has_one_color_in_every_chart():
    first = wb.plots.plot_sweep({"openvino": {1: call(1.0, 1)}}).axes[0].lines[0].get_color()
    assert wb.plots.plot_sweep(LINES).axes[0].lines[1].get_color() == first


@pytest.mark.parametrize("settings", [(1,), (1, 2, 3), (0, 5)])
def test_any_settings_can_be_drawn(settings):
    figure = wb.plots.plot_sweep({"a": {setting: call(1.0, 1) for setting in settings}})
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [str(s) for s in settings]
