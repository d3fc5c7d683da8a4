"""The figures themselves: they draw, they say why they are empty, and no label is cut or covers another."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from workbench.plots import figure_png, plot_memory, plot_throughput, plot_tradeoff, plot_waterfall
from workbench.plots.drawing.figure import nice_ticks
from workbench.present.style import BACKENDS, TECHNIQUES

Rows = list[dict[str, Any]]
CHARTS: list[Callable[..., Figure]] = [plot_tradeoff, plot_throughput, plot_memory, plot_waterfall]


def crowded(rows: Rows) -> Rows:
    """Return twice the recipes, with long names and one far below."""
    more = []
    for number, row in enumerate(rows):
        if row["technique"] in ("distill", "chain"):
            factor = 0.7 + 0.05 * (number % 7)
            changes = {k: row[k] * factor for k in ("latency_ms_p50", "latency_ms_low", "latency_ms_high", "size_mib")}
            name = f"prune 0.3 + distill + int8 (QAT), gentle {row['technique']}"
            more.append(dict(row, **changes, recipe=name, recipe_id=f"x{row['technique']}", recommended=False))
        if row["technique"] == "prune":
            more.append(dict(row, recipe="prune 0.9 without recovery", recipe_id="far", quality=0.31))
    return rows + more


def labels(ax: Axes) -> list[Annotation]:
    return [t for t in ax.texts if isinstance(t, Annotation) and t.get_visible() and t.get_text()]


def words_box(note: Text) -> Bbox:
    return Text.get_window_extent(note)  # without the leader line of an annotation


def check_labels(figure: Figure) -> None:
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    boxes = [(note.get_text(), words_box(note)) for ax in figure.axes for note in labels(ax)]
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"cut: {text!r}"
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or down <= 1, f"{one!r} covers {two!r}"


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("many", [False, True])
def test_no_label_is_cut_or_covers_another(chart: Callable[..., Figure], many: bool, rows: Rows) -> None:
    options = {"quality_drop": 0.01} if chart in (plot_tradeoff, plot_memory) else {}
    figure = chart(crowded(rows) if many else rows, **options)
    assert sum(len(labels(ax)) for ax in figure.axes) >= 4
    check_labels(figure)


@pytest.mark.parametrize("chart", CHARTS)
def test_empty_and_failed_studies_say_so(chart: Callable[..., Figure], rows: Rows) -> None:
    failed = [dict(r, state="failed", recommended=False, error="ExportError: no such operator") for r in rows]
    nothing, all_failed = chart([]), chart(failed)
    assert "No trials yet" in text_of(nothing)
    assert "54 failed" in text_of(all_failed) and "no such operator" in text_of(all_failed)
    assert figure_png(all_failed).startswith(b"\x89PNG")


def text_of(figure: Figure) -> str:
    return " ".join(t.get_text().replace("\n", " ") for ax in figure.axes for t in ax.texts)


def test_waterfall_says_that_nothing_met_the_goal(rows: Rows) -> None:
    assert "none met the quality limit" in text_of(plot_waterfall([dict(r, recommended=False) for r in rows]))


@pytest.mark.parametrize("chart", CHARTS)
def test_one_point_draws(chart: Callable[..., Figure], rows: Rows) -> None:
    assert figure_png(chart(rows[:1])).startswith(b"\x89PNG")


@pytest.mark.parametrize("chart", CHARTS)
def test_draws_into_a_given_axes(chart: Callable[..., Figure], rows: Rows) -> None:
    figure = Figure(figsize=(9, 5), layout="constrained")
    ax = figure.subplots()
    assert chart(rows, ax=ax) is figure
    assert ax.get_title(loc="left")


@pytest.mark.cpu_limit(5)
def test_units_stand_on_the_axes(rows: Rows) -> None:
    assert plot_tradeoff(rows).axes[0].get_xlabel() == "Latency (ms/batch of 32) ↓"
    assert plot_throughput(rows).axes[0].get_ylabel() == "Throughput (samples/s) ↑"
    peak, size = plot_memory(rows).axes
    assert "MiB" in peak.get_xlabel() and "MiB" in size.get_xlabel()
    details = [ax.get_title(loc="left") for ax in plot_waterfall(rows).axes]
    assert "ms/batch of 32" in details[0] and "/sample" in details[1] and "MiB" in details[2]


def test_the_limit_the_baseline_and_the_recommended_point_are_named(rows: Rows) -> None:
    words = text_of(plot_tradeoff(rows, quality_drop=0.01))
    assert "acceptable: 0.9612 or more (drop 0.01)" in words
    assert "baseline 0.9712" in words
    assert "recommended prune+distill+qat 6.1x speedup (95 % CI 5.8-6.4)" in words


def test_references_and_surveys_are_named(rows: Rows) -> None:
    base = next(r for r in rows if r["baseline"] and r["batch_size"] == 32)
    started = {**base, "baseline": False, "reference": "as commonly started", "speedup": 0.6}
    compiled = {**started, "reference": "torch.compile", "backend": "torch-compile", "speedup": 1.4}
    survey = {**base, "baseline": False, "recipe": "quick", "recipe_id": "q", "fidelity": "survey", "speedup": 1.2}
    figure = plot_tradeoff([*rows, started, compiled, survey], quality_drop=0.01)
    words = text_of(figure)
    assert "torch eager, as commonly started" in words and "torch.compile" in words and "quick (survey)" in words
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "reference, not ranked" in legend and "survey, low fidelity" in legend
    assert "reference, not ranked" not in [t.get_text() for t in plot_tradeoff(rows).axes[0].get_legend().get_texts()]


def test_a_recipe_named_twice_is_named_with_its_backend(rows: Rows) -> None:
    for row in rows:
        if row["recipe"] == "quantize" and row["backend"] == "onnxruntime":
            row["quality"] += 0.0004
    words = text_of(plot_tradeoff(rows))
    assert "quantize, ONNX Runtime" in words and "quantize, OpenVINO" in words
    assert "distill, " not in words


def test_points_far_below_keep_the_rest_readable(rows: Rows) -> None:
    figure = plot_tradeoff(crowded(rows), quality_drop=0.01)
    low, _ = figure.axes[0].get_ylim()
    assert low > 0.9
    assert "prune 0.9 without recovery ↓ 0.31" in text_of(figure)


def test_both_memory_panels_share_one_quality_axis(rows: Rows) -> None:
    best = [dict(r, recommended=r["recipe"] == "float" and r["backend"] == "openvino") for r in crowded(rows)]
    figure = plot_memory(best, quality_drop=0.01)
    peak, size = figure.axes
    assert peak.get_ylim() == size.get_ylim()
    assert peak.get_ylim()[0] > 0.9
    for ax in figure.axes:
        assert any("acceptable" in t.get_text() for t in ax.texts)
        bottom = min(float(y) for line in ax.get_lines() for y in line.get_ydata())
        assert bottom >= ax.get_ylim()[0]


def test_memory_without_peak_shows_size_and_says_so(rows: Rows) -> None:
    figure = plot_memory([dict(r, peak_rss_mib=None) for r in rows])
    assert len(figure.axes) == 1
    assert "peak memory was not measured" in figure.axes[0].get_title(loc="left")


def test_log_axis_only_where_the_range_asks_for_it(rows: Rows) -> None:
    assert plot_tradeoff(rows).axes[0].get_xscale() == "log"
    near = [r for r in rows if r["recipe"] in ("float", "quantize") and r["backend"] == "torch-eager"]
    assert plot_tradeoff(near).axes[0].get_xscale() == "linear"


def test_every_technique_and_backend_looks_different_without_color() -> None:
    assert len({mark.marker for mark in TECHNIQUES.values()}) == len(TECHNIQUES)
    assert len({mark.color for mark in TECHNIQUES.values()}) == len(TECHNIQUES)
    assert len({(stroke.fill, str(stroke.dash)) for stroke in BACKENDS.values()}) == len(BACKENDS)
    used = [BACKENDS[name] for name in ("torch-eager", "onnxruntime", "openvino")]
    assert len({stroke.fill for stroke in used}) == len({str(stroke.dash) for stroke in used}) == 3


def test_unknown_technique_and_backend_still_draw(rows: Rows) -> None:
    odd = [dict(rows[0], technique="magic", backend="abacus", recipe_id="odd"), *rows]
    assert figure_png(plot_tradeoff(odd, batch_size=1)).startswith(b"\x89PNG")


@pytest.mark.parametrize(("low", "high"), [(0.013, 0.9), (1, 4), (3, 90), (0.5, 2e5), (1e-4, 1e7)])
def test_ticks_lie_inside_and_are_few(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert all(low <= t <= high for t in ticks)


def test_drawing_in_threads_at_once(rows: Rows) -> None:
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(figure_png(plot_tradeoff(rows)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and len(set(results)) == 1


def test_the_package_never_imports_pyplot() -> None:
    code = (
        "import sys, workbench.plots as p; assert 'matplotlib' not in sys.modules;"
        "p.plot_tradeoff([]), p.plot_waterfall([]); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
