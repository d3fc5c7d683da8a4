"""Bars of profiles and the roofline: data by hand, words that stand inside the figure and not on each other."""

from __future__ import annotations

import itertools
import runpy

import pytest
from paths import SUPPORT

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.measure.profiling.work import LayerWork
from workbench.measure.rooflines.peaks import Peak
from workbench.plots import figure_png

MADE = runpy.run_path(str(SUPPORT / "profiles.py"))
profile, peaks = MADE["make_profile"], MADE["make_peaks"]


def apart(figure, texts):
    """Say whether texts stand inside the figure, none on another."""
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    inside = all(b.x0 >= -1 and b.y0 >= -1 and b.x1 <= figure.bbox.x1 + 1 and b.y1 <= figure.bbox.y1 + 1 for b in boxes)
    return inside and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_layers_are_bars_of_their_kinds_with_what_is_outside():
    rows = [*MADE["ROWS"], ("body", "Add", 0.25), ("body", "Cast", 0.05)]
    frame = wb.plots.profile_data(profile(rows, plain_ms=1.5), most=2)
    body = frame[frame["layer"] == "body"]
    assert list(body["kind"]) == ["product", "precision change", "elementwise"]
    assert list(body["ms"]) == [0.5, 0.05, 0.25] and list(body["layer_ms"]) == pytest.approx([0.8] * 3)
    assert list(dict.fromkeys(frame["layer"])) == ["body", "stem", "2 other layers", "outside of all nodes"]
    assert frame["share"].sum() == pytest.approx(1.0)
    assert frame["ms"].iloc[-1] == pytest.approx(0.2)


def test_the_bars_say_ms_and_share_and_nothing_is_cut():
    figure = wb.plots.plot_profile(profile(plain_ms=1.25, label="prune 50 %, distill, " * 6))
    (ax,) = figure.axes
    words = [text.get_text() for text in ax.texts]
    assert {"0.5 ms, 40 %", "0.3 ms, 24 %", "0.25 ms, 20 %"} <= set(words)
    key = [text.get_text() for text in ax.get_legend().get_texts()]
    assert key == ["product", "elementwise", "outside of all nodes"]
    names = [label for label in ax.get_yticklabels() if label.get_text()]
    assert apart(figure, [*ax.texts, *names, *ax.get_legend().get_texts()])
    assert "(ms/call)" in ax.get_xlabel() and figure_png(figure).startswith(b"\x89PNG")
    assert "disturbed by other load" in wb.plots.plot_profile(profile(disturbed=("x",))).axes[0].get_title(loc="left")


def test_what_is_outside_does_not_hide_the_layers():
    figure = wb.plots.plot_profile(profile(plain_ms=101.0))
    (ax,) = figure.axes
    assert "100 ms, 99 % (cut)" in [text.get_text() for text in ax.texts]
    assert ax.get_xlim()[1] < 1.0 and max(bar.get_width() for bar in ax.patches) == 0.5
    busy = wb.plots.profile_data(profile(plain_ms=101.0, disturbed=("other processes used 70 % of the cores",)))
    assert "outside of all nodes" not in set(busy["layer"]) and busy["share"].sum() == pytest.approx(1.0)


def test_two_profiles_stand_side_by_side():
    after = profile([("stem", "Conv", 0.15), ("body", "Conv", 0.5), ("extra", "Cast", 0.1)], plain_ms=0.8, label="int8")
    comparison = wb.compare_profiles(profile(), after)
    frame = wb.plots.profiles_data(comparison)
    assert list(frame["layer"]) == ["body", "stem", "relu", "head", "extra"]
    figure = wb.plots.plot_profiles(comparison)
    (ax,) = figure.axes
    words = [text.get_text() for text in ax.texts]
    assert {"0.3 → 0.15 ms (2.00x)", "0.1 ms → gone", "new, 0.1 ms"} <= set(words)
    assert [bar.get_width() for bar in ax.patches[:4]] == [0.5, 0.5, 0.3, 0.15]
    key = ax.get_legend().get_texts()
    assert [text.get_text() for text in key] == ["before: float, onnxruntime", "after: int8, onnxruntime"]
    assert apart(figure, [*ax.texts, *key, ax.xaxis.label])
    assert len(wb.plots.profiles_data(comparison, most=2)) == 2


def test_the_roofline_names_every_roof_and_point():
    work = (LayerWork("stem", 2_000_000, 400, 4_000, (3, 16)), LayerWork("body", 200_000, 40_000, 8_000, (16, 32)))
    one, two = profile(work=work), profile(work=work, plain_ms=1.25)
    fast = profile([("stem", "QLinearConv", 0.1, "int8")], work=work, plain_ms=0.3)
    points = wb.roofline({"float": one, "again": two, "int8": fast}, peaks())
    figure = wb.plots.plot_roofline(points, peaks())
    (ax,) = figure.axes
    words = "\n".join(text.get_text() for text in ax.texts)
    for said in ("float32\n100 GFLOP/s", "int8\n300 GFLOP/s\nOpenVINO", "float, 2 %", "again, 2 %", "int8, 2 %"):
        assert said in words
    assert "flop/byte" in ax.get_xlabel() and "GFLOP/s" in ax.get_ylabel()
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert apart(figure, ax.texts)
    slope = ax.lines[0].get_xydata()
    assert all(y == pytest.approx(20 * x) for x, y in slope) and slope[-1][1] == 300.0


def test_roofs_of_the_same_height_have_names_that_do_not_touch():
    same = tuple(Peak(name, value, "torch") for name, value in (("bfloat16", 100), ("float16", 101), ("float32", 99)))
    points = wb.roofline(profile(), peaks(peaks=same))
    figure = wb.plots.plot_roofline(points, peaks(peaks=same))
    assert apart(figure, figure.axes[0].texts)


def test_a_variant_that_was_not_run_is_hollow(tiny_task):
    variant = wb.Variant.original(tiny_task)
    figure = wb.plots.plot_roofline(wb.roofline(variant, peaks(), batch_size=8), peaks())
    assert any("(not run)" in text.get_text() for text in figure.axes[0].texts)
    assert figure.axes[0].lines[-1].get_markerfacecolor() == "white"


def test_nothing_to_draw_is_said_and_anything_else_is_refused():
    assert "no node" in wb.plots.plot_profile(profile([])).axes[0].texts[0].get_text()
    assert "No point" in wb.plots.plot_roofline((), peaks()).axes[0].texts[0].get_text()
    empty = wb.compare_profiles(profile([]), profile([]))
    assert "Neither" in wb.plots.plot_profiles(empty).axes[0].texts[0].get_text()
    for call, words in (
        (lambda: wb.plots.plot_profile({}), r"plot_profile takes the result of wb\.profile\(\.\.\.\)"),
        (lambda: wb.plots.plot_profile(profile(), most=0), "most must be an integer"),
        (lambda: wb.plots.plot_profiles(profile()), "plot_profiles takes the result of wb.compare_profiles"),
        (lambda: wb.plots.plot_roofline([3], peaks()), "plot_roofline takes the result of wb.roofline"),
        (lambda: wb.plots.plot_roofline((), 3), "peaks must be the result of wb.measure_peaks"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()
