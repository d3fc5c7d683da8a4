"""The chart of a search: every different point once, told apart by marks, with the best so far and the goals."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.study.search.goals import Objective
from workbench.study.search.history import History, TrialRecord


def tried(number, state="complete", value=None, drop=0.0, technique="prune", key=None, **more):
    excess = {} if drop is None else {"max_quality_drop": (drop - 0.01) / 0.01}
    return TrialRecord(
        number, state, key or f"k{number}", f"recipe {number}", "openvino", 8, {}, None if value is None else (value,),
        drop, excess, technique=technique, elapsed_s=10.0 * (number + 1), **more,
    )  # fmt: skip


POINTS = (
    tried(0, value=5.0, technique="float"),
    tried(1, value=3.0, drop=0.02),
    tried(2, "pruned", drop=0.3),
    tried(3, "interrupted", drop=None),
    tried(4, value=4.0, drop=0.005),
    tried(5, value=4.0, drop=0.005, key="k4", reused=True),
    tried(6, "failed", drop=None, technique="quantize"),
    tried(7, value=4.5),
)


def history(points=POINTS, figures=("latency_ms_rel",), **goals):
    return History("s", Objective(wb.Goals(**goals), figures, (8,)), tuple(points))


def test_the_data_has_each_different_point_once_with_the_best_so_far():
    frame = wb.plots.search_data(history())
    assert list(frame["look"]) == ["holds", "misses", "pruned", "holds", "failed", "holds"]
    assert list(frame["point"]) == [1, 2, 3, 4, 5, 6] and list(frame["elapsed_s"]) == [10, 20, 30, 50, 70, 80]
    assert list(frame["value"].fillna(-1)) == [5, 3, -1, 4, -1, 4.5]
    assert list(frame["best_so_far"]) == [5, 5, 5, 4, 4, 4]


def test_more_is_better_where_it_is():
    points = [tried(0, value=10.0), tried(1, value=30.0, drop=0.5), tried(2, value=20.0)]
    frame = wb.plots.search_data(history(points, ("throughput_per_s",)))
    assert list(frame["best_so_far"]) == [10, 10, 20]
    (ax, _) = wb.plots.plot_search(history(points, ("throughput_per_s",))).axes
    assert "↑" in ax.get_ylabel()
    lost = wb.plots.plot_search(history([*points, tried(3, "pruned", drop=0.4)], ("throughput_per_s",))).axes[0]
    assert marks(lost)[-1] == (4, 0.035, "v", True)  # where the worse ones are


def marks(ax):
    return [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_marker(), line.get_markerfacecolor() == "white")
        for line in ax.lines
        if line.get_marker() in "ovx" and len(line.get_xdata()) == 1
    ]


def test_points_stand_at_their_figure_and_those_without_one_at_the_edge():
    figure = wb.plots.plot_search(history(max_latency_ms=4.2))
    left, right = figure.axes
    assert marks(left) == [
        (1, 5.0, "o", False), (2, 3.0, "o", True), (3, 0.965, "v", True), (4, 4.0, "o", False), (5, 0.965, "x", True),
        (6, 4.5, "o", False),
    ]  # fmt: skip
    assert [mark[1] for mark in marks(right)] == [0.0, 0.02, 0.3, 0.005, 0.965, 0.0]
    (step,) = [line for line in left.lines if line.get_drawstyle() == "steps-post"]
    assert list(step.get_ydata()) == [5, 5, 5, 4, 4, 4, 4]
    for ax, goal in ((left, 4.2), (right, 0.01)):
        assert [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [goal]
        assert f"goal\n{goal:g}" in [text.get_text() for text in ax.texts]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"meets the goals", "misses a goal", "pruned, not timed", "failed", "best so far", "prune"} <= set(words)
    assert "recipe 4 on openvino: 4 ms (6 points)" in left.get_title(loc="left")


def test_against_seconds_and_into_given_axes():
    figure = wb.plots.plot_search(history(), against="seconds")
    assert [mark[0] for mark in marks(figure.axes[0])] == [10, 20, 30, 50, 70, 80]
    assert figure.axes[0].get_xlabel() == "Search time (s)"
    (ax,) = wb.plots.plot_search(history([])).axes
    assert "no point has ended yet" in ax.texts[0].get_text()
    again = wb.plots.plot_search(history(), ax=ax)
    assert again.axes == [ax] and len(marks(ax)) == 6


@pytest.mark.parametrize(
    "points", [POINTS[2:3], POINTS[6:7], POINTS[1:2], [tried(0, value=0.001), tried(1, value=90.0)]]
)
def test_few_or_spread_points_are_drawn_and_nothing_is_cut(points):
    figure = wb.plots.plot_search(history(points))
    figure.canvas.draw()
    if not any(one.holds for one in points):
        assert "none meets the goals yet" in figure.axes[0].get_title(loc="left")
        assert "best so far" not in [text.get_text() for text in figure.legends[0].get_texts()]
    for ax in figure.axes:
        for text in (*ax.texts, ax._left_title, ax.yaxis.label):
            extent = text.get_window_extent()
            assert extent.x0 >= -1 and extent.x1 <= figure.bbox.x1 + 1 and extent.y1 <= figure.bbox.y1 + 1


@pytest.mark.parametrize("what", [None, [], 3, "study"])
def test_what_is_no_search_is_refused(what):
    with pytest.raises(ConfigError, match="plot_search takes a study that was searched"):
        wb.plots.plot_search(what)


def test_an_unknown_axis_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'seconds'"):
        wb.plots.plot_search(history(), against="second")
