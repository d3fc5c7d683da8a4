"""Charts of MLPerf's scenarios and of the search for a rate: the numbers drawn, what is missing said, nothing cut."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.measure.loadgen.log import LoadGenLog
from workbench.measure.loadgen.scenarios import ScenarioResult
from workbench.measure.loadgen.server_rate import RateProbe, ServerRate
from workbench.timing.conditions import Conditions


def result(scenario, per_s, latencies, *, valid=True, target=None, bound=None, at=None, backend="openvino"):
    log = LoadGenLog("", {}, (), 10, np.array([1.0]))
    p50, p90, p99 = latencies
    return ScenarioResult(
        scenario, backend, valid, () if valid else ("too few",), 10, 8 if scenario == "multi-stream" else 1, 2.0, per_s,
        p50, p90, p99, 0.99, p99 if at is None else at, target, bound, log.latencies_ms, log, None, Conditions(2.0), (),
    )  # fmt: skip


FOUR = [
    result("single-stream", 480.0, (2.0, 2.1, 5.0)),
    result("multi-stream", 3600.0, (2.1, 2.2, None), valid=False),
    result("offline", 3700.0, (None, None, None)),
    result("server", 390.0, (2.8, 4.1, 6.1), target=400.0, bound=20.0),
]


def rate(probes, *, bound=20.0, found=None, failed=None):
    tried = tuple(
        RateProbe(
            per_s,
            held,
            reason="" if held else "p99",
            result=result("server", per_s, (1.0, 2.0, ms), target=per_s, bound=bound),
        )
        for per_s, held, ms in probes
    )
    return ServerRate(found, failed, bound, 0.99, tried, "tolerance reached", FOUR[0], FOUR[2], ())


SEARCH = rate(
    [(400.0, True, 9.0), (600.0, True, 14.0), (900.0, False, 130.0), (700.0, False, None)], found=600.0, failed=700.0
)


def inside(figure):
    """Check that no word is cut off by the figure's edge."""
    figure.canvas.draw()
    for ax in figure.axes:
        ticks = [tick.label1 for axis in (ax.xaxis, ax.yaxis) for tick in _shown(axis)]
        for text in [*ax.texts, ax.xaxis.label, ax.yaxis.label, *ticks]:
            box = text.get_window_extent()
            cut = box.x0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y0 < -1 or box.y1 > figure.bbox.y1 + 1
            assert not (cut and text.get_text() and text.get_visible()), text


def _shown(axis):
    low, high = sorted(axis.get_view_interval())
    return [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def marks(ax):
    """Return the points that are drawn, by their marker."""
    found = {}
    for line in ax.lines:
        if line.get_marker() not in ("None", None, ""):
            found.setdefault(line.get_marker(), []).extend(
                zip(np.atleast_1d(line.get_xdata()), np.atleast_1d(line.get_ydata()), strict=True)
            )
    return found


def test_the_data_keeps_what_is_unknown_unknown():
    frame = wb.plots.scenario_data(FOUR)
    assert list(frame["scenario"]) == ["single-stream", "multi-stream", "offline", "server"]
    assert np.isnan(frame["p99_ms"][1]) and frame[["p50_ms", "p90_ms", "p99_ms"]].loc[2].isna().all()
    assert list(frame["load"]) == [
        "one sample per query, in sequence", "8 samples per query", "all samples in one query",
        "400 queries/s (Poisson)",
    ]  # fmt: skip


def test_throughput_and_latency_stand_side_by_side():
    figure = wb.plots.plot_scenarios(FOUR)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [480.0, 3600.0, 3700.0, 390.0]
    assert [bar.get_hatch() for bar in left.patches] == [None, "////", None, None]
    found = marks(right)
    assert sorted(found["o"]) == [(2.0, 0), (2.1, 1), (2.8, 3)] and sorted(found["D"]) == [(5.0, 0), (6.1, 3)]
    said = [text.get_text() for text in right.texts]
    assert {"2 / 2.1 / 5 ms", "2.1 / 2.2 ms", "2.8 / 4.1 / 6.1 ms", "bound 20 ms"} <= set(said)
    assert any("no latency per sample" in words for words in said)
    assert "hatched" in left.get_title(loc="left")
    assert "hatched" not in wb.plots.plot_scenarios(FOUR[:1]).axes[0].get_title(loc="left")
    inside(figure)


def test_two_engines_are_told_apart():
    figure = wb.plots.plot_scenarios([FOUR[0], result("single-stream", 200.0, (5.0, 5.5, 6.0), backend="onnxruntime")])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "on openvino" in names[0] and "on onnxruntime" in names[1]
    inside(figure)


def test_nothing_to_draw_is_said():
    assert "No scenario" in wb.plots.plot_scenarios([]).axes[0].texts[0].get_text()
    assert "No latency" in wb.plots.plot_scenarios([FOUR[2]]).axes[1].texts[0].get_text()
    empty = ServerRate(None, None, 20.0, 0.99, (), "the time is used up", FOUR[0], FOUR[2], ())
    assert "the time is used up" in wb.plots.plot_server_rate(empty).axes[0].texts[0].get_text().replace("\n", " ")


def test_every_rate_that_was_tried_is_drawn_with_the_bound_and_what_was_found():
    figure = wb.plots.plot_server_rate(SEARCH)
    (ax,) = figure.axes
    found = marks(ax)
    assert found["o"] == [(400.0, 9.0), (600.0, 14.0)]
    assert found["X"] == [(900.0, 130.0), (700.0, pytest.approx(ax.get_ylim()[1]))]
    level = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert level == [20.0] and any(list(line.get_xdata()) == [600.0, 600.0] for line in ax.lines)
    said = {text.get_text() for text in ax.texts}
    assert {"bound 20 ms", "600 queries/s", "not valid", "valid"} <= said
    assert ax.get_ylabel().startswith("p99") and "Highest rate" in " ".join(said)
    inside(figure)


@pytest.mark.parametrize(
    "probes", [[(23.0, False, 2.4)], [(23.0, False, None)], [(10.0, False, 5.0), (1.0, False, 3.0)]]
)
def test_no_rate_is_drawn_where_none_was_found(probes):
    figure = wb.plots.plot_server_rate(rate(probes, bound=1.0, failed=probes[-1][0]))
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "No rate within" in said and "queries/s" not in said
    inside(figure)
    box = figure.axes[0].get_position()
    assert box.x0 < 0.15 and box.y0 < 0.15  # nothing invisible takes room


def test_wrong_things_are_refused():
    for wrong in (None, 3, FOUR[0], [3]):
        with pytest.raises(ConfigError, match="plot_scenarios takes a list"):
            wb.plots.plot_scenarios(wrong)
    with pytest.raises(ConfigError, match="plot_server_rate takes"):
        wb.plots.plot_server_rate(FOUR)
