"""Charts of a comparison, of a noise floor, and of tuned settings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.engine import InferenceConfig, TunedSetting, TuneResult
from workbench.engine.autotune.result import judge
from workbench.measure.comparison.compare import Comparison
from workbench.measure.comparison.noise import NoiseFloor
from workbench.timing.pace import Timing


def comparison(rounds=8, quick=2.0):
    slow, fast = ([np.full(5, ms * (1 + 0.01 * i)) for i in range(rounds)] for ms in (4.0, quick))
    return Comparison(
        "torch-eager", "onnxruntime", Timing.of(slow), Timing.of(fast), 2.0, 1.9, 2.1, "faster", 0.02, "noise floor"
    )


def inside(figure):
    figure.canvas.draw()
    for ax in figure.axes:
        for text in [*ax.texts, ax.title, ax.yaxis.label, ax.xaxis.label]:
            extent = text.get_window_extent()
            assert extent.x1 <= figure.bbox.x1 + 1 and extent.x0 >= figure.bbox.x0 - 1, text.get_text()


def test_rounds_ratios_and_the_band_are_drawn():
    figure = wb.plots.plot_comparison(comparison())
    left, right = figure.axes
    assert [list(np.round(line.get_ydata(), 3))[:2] for line in left.lines] == [[4.0, 4.04], [2.0, 2.02]]
    assert left.get_ylim()[0] == 0 and "ms/call" in left.get_ylabel()
    assert np.allclose(right.lines[1].get_ydata(), 2.0)
    assert right.get_ylim()[0] < 0.98  # the band around 1 is in sight
    words = {text.get_text() for text in right.texts}
    assert "onnxruntime: faster" in words
    assert right.get_ylabel() == "Speedup over torch-eager ↑"
    ticks = [text.get_text() for text in right.get_xticklabels()]
    assert ticks[-1] == "all" and all(1 <= int(tick) <= 8 for tick in ticks[:-1])
    inside(figure)
    inside(wb.plots.plot_comparison(comparison(rounds=60)))


def test_pairs_are_drawn_with_the_floor():
    floor = NoiseFloor(0.015, (1.001, 0.99, 1.02), "a machine", "f", "2026-01-01")
    (ax,) = wb.plots.plot_noise(floor).axes
    assert np.allclose(ax.lines[0].get_ydata(), [0.1, 1.01, 2.0], atol=0.001)
    assert list(ax.lines[1].get_ydata()) == [1.5, 1.5]
    assert "noise floor 1.5 %" in {text.get_text() for text in ax.texts}
    inside(ax.figure)


def test_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"wb\.compare"):
        wb.plots.plot_comparison(3)
    with pytest.raises(ConfigError, match=r"wb\.measure_noise"):
        wb.plots.plot_noise([1.0])


def result(*rows: TunedSetting, **changes: object) -> TuneResult:
    config = InferenceConfig(backend="torch-eager")
    return TuneResult("torch-eager", 8, "latency", changes, config, rows, "The default stays: no reason.", 1.0)


ROWS = (
    TunedSetting("default (2 threads)", "default", {}, 4.0, 1.0, 1.0, 1.0, 9),
    TunedSetting("threads=1", "threads", {"threads": 1}, 6.0, 1.5, 1.4, 1.6, 9),
    TunedSetting("threads=4", "threads", {"threads": 4}, reason="no room"),
    TunedSetting("threads=1", "memory_format", {"threads": 1}, 6.0, 1.5, 1.4, 1.6, 9),
    TunedSetting("memory_format='channels_last'", "memory_format", {}, 3.0, 0.75, 0.7, 0.8, 9),
    TunedSetting("memory_format='channels_last'", "final", {}, 3.1, 0.76, 0.7, 0.8, 9),
)


def test_the_data_has_every_setting_with_the_reason_of_those_left_out():
    frame = wb.plots.tuning_data(result(*ROWS, memory_format="channels_last"))
    assert list(frame["stage"]) == ["default", "threads", "threads", "memory_format", "memory_format", "final"]
    assert list(frame["chosen"]) == [False] * 5 + [True]
    assert list(frame["reason"]) == ["", "", "no room", "", "", ""]
    assert not wb.plots.tuning_data(result(*ROWS))["chosen"].any()


def test_marks_stand_at_their_ratio_and_say_their_time():
    figure = wb.plots.plot_tuning(result(*ROWS, memory_format="channels_last"))
    (ax,) = figure.axes
    marks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert marks == [1.0, 1.5, 0.75, 0.76]
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels == [
        "default (2 threads)",
        "threads=1",
        "memory_format=channels_last",
        "memory_format=channels_last\n(measured again)",
    ]
    words = " ".join(text.get_text() for text in ax.texts) + ax.get_title(loc="left")
    assert "3.1 ms" in words and "filled green: chosen" in words
    assert "the default stays" in wb.plots.plot_tuning(result(*ROWS)).axes[0].get_title(loc="left")


def test_a_setting_many_times_as_fast_is_shown_on_a_log_scale():
    fast = TunedSetting("threads=1", "threads", {"threads": 1}, 0.04, 0.01, 0.009, 0.011, 9)
    assert wb.plots.plot_tuning(result(ROWS[0], fast)).axes[0].get_xscale() == "log"
    assert wb.plots.plot_tuning(result(*ROWS)).axes[0].get_xscale() == "linear"


@pytest.mark.parametrize("rows", [(), ROWS[:1], (ROWS[2],)])
def test_nothing_measured_is_said(rows: tuple[TunedSetting, ...]):
    figure = wb.plots.plot_tuning(result(*rows))
    assert "Nothing to draw" in figure.axes[0].texts[0].get_text().replace("\n", " ")
    again = wb.plots.plot_tuning(result(*ROWS), ax=figure.add_subplot())
    assert again is figure


def undecided() -> TuneResult:
    rows = (*ROWS[:5], dataclasses.replace(ROWS[5], rounds=2))
    return dataclasses.replace(result(*rows), decided=False, verdict=judge(rows[-1], rows).text)


def test_what_is_undecided_is_said_with_the_reason():
    words = wb.plots.plot_tuning(undecided()).axes[0].get_title(loc="left").replace("\n", " ")
    assert words.startswith("95 % CI; undecided. The default stays: ")
    assert words.endswith("only 2 rounds fitted into the time, and 6 are needed. Give a larger budget_s.")


def test_the_line_at_1_does_not_cross_a_time():
    (ax,) = wb.plots.plot_tuning(result(*ROWS)).axes
    (line,) = [line for line in ax.lines if list(line.get_xdata()) == [1.0, 1.0]]
    times = [text for text in ax.texts if text.get_text().endswith(" ms")]
    assert len(times) == 4
    for text in times:
        box = text.get_bbox_patch()
        assert box is not None and box.get_facecolor() == (1, 1, 1, 1) and text.get_zorder() > line.get_zorder()


@pytest.mark.parametrize("found", [result(*ROWS, memory_format="channels_last"), undecided()])
def test_no_label_is_cut(found: TuneResult):
    figure = wb.plots.plot_tuning(found)
    figure.canvas.draw()
    box = figure.bbox
    ax = figure.axes[0]
    for text in (*ax.texts, *ax.get_yticklabels(), ax._left_title):
        extent = text.get_window_extent()
        assert extent.x1 <= box.x1 + 1 and extent.x0 >= box.x0 - 1, text.get_text()
