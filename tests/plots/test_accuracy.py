"""SQNR of layers, and precisions of engines: their data, and the texts if there is none."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.measure.accuracy.debug import AccuracyReport
from workbench.measure.accuracy.layer_sqnr import LayerSignal
from workbench.plots import figure_png, layer_sqnr_data, plot_layer_sqnr
from workbench.plots.charts.measure.accuracy import COLUMNS
from workbench.present import style


def report(ratios, **more):
    layers = tuple(LayerSignal(f"layer{i}", "Conv", ratio) for i, ratio in enumerate(ratios))
    fields = {"unaligned": (), "classes": (), "metrics": (), "confusion": None, "notes": ()} | more
    return AccuracyReport("t", "openvino", "validation", "float", "int8", layers, **fields)


def test_layers_near_the_lowest_ratio_are_the_worst():
    frame = layer_sqnr_data(report([40.0, 12.0, 14.9, math.inf]))
    assert frame["worst"].tolist() == [False, True, True, False]


def test_every_layer_has_a_bar_with_its_value():
    figure = plot_layer_sqnr(report([40.0, 12.04, math.inf, -3.0], unaligned=(("head", "why"),)))
    ax = figure.axes[0]
    assert len(ax.patches) == 4
    words = [text.get_text() for text in ax.texts]
    assert {"40.0", "12.0", "exact", "-3.0"} <= set(words)
    assert "1 layer not compared" in ax.get_title(loc="left")
    assert ax.get_xlim()[0] < -3
    assert figure_png(figure).startswith(b"\x89PNG")


def test_nothing_to_draw_says_why_and_anything_else_is_refused():
    ax = plot_layer_sqnr(report([], notes=("no layers: torch-eager runs a module",))).axes[0]
    assert "torch-eager runs a module" in ax.texts[0].get_text()
    with pytest.raises(ConfigError, match=r"takes the result of wb\.debug_accuracy\(\.\.\.\)"):
        layer_sqnr_data({})


ROWS = [
    ["torch float32", "torch-eager", "float32", "float32", 0.0, 1e-3, 0.94, 0.0],
    ["torch bfloat16", "torch-eager", "bfloat16", "bfloat16", 4e-3, 5e-2, 0.93, 0.01],
    ["ort float16", "onnxruntime", "float16", "float32", 3e-7, 1e-3, 0.94, 0.0],
    ["far float16", "torch-eager", "float16", "float16", 2e-2, 1e-2, 0.95, -0.01],
    ["auto", "openvino", "auto", "bfloat16", 2e-3, 5e-2, 0.94, 0.0],
]


@pytest.fixture
def frame():
    """Return rows of every kind."""
    return pd.DataFrame(ROWS, columns=COLUMNS)


def test_the_distance_is_that_over_the_whole_split(tiny_task):
    variant = wb.Variant.original(tiny_task)
    load = wb.OptimizedInferenceEngine.from_variant
    with (
        load(variant, backend="torch-eager", precision="bfloat16", batch_size=8) as half,
        load(variant, backend="onnxruntime", precision="bfloat16", batch_size=8) as fallen,
    ):
        frame = wb.plots.precision_data({"half": half, "fallen": fallen}, tiny_task)
        x, y = tiny_task.split("validation").inputs, tiny_task.split("validation").targets
        with torch.no_grad():
            want = tiny_task.model()(x)
        got = half.predict(x).result
    assert list(frame["requested"]) == ["bfloat16"] * 2
    assert list(frame["precision"])[1] == "float32" and list(frame["tolerance"]) == [5e-2, 1e-3]
    assert frame["share"][0] == pytest.approx(float((got - want).abs().max() / want.abs().max()), rel=1e-2)
    assert frame["share"][1] < 1e-5
    assert frame["quality"][0] == pytest.approx(float((got.argmax(1) == y).float().mean()), abs=0.02)
    assert list(frame["drop"] + frame["quality"]) == pytest.approx(
        [tiny_task.evaluate(tiny_task.model(), split="validation")] * 2
    )


def test_dots_lie_at_the_distance_and_lines_at_what_is_accepted(frame):
    (ax,) = wb.plots.plot_precisions(frame, metric="accuracy").axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    lines = [line for line in ax.lines if line.get_marker() == "|"]
    assert [dot.get_xdata()[0] for dot in dots][1:] == [4e-3, 3e-7, 2e-2, 2e-3]
    assert [line.get_xdata()[0] for line in lines] == list(frame["tolerance"])
    assert [dot.get_color() == style.BAD for dot in dots] == [False, False, False, True, False]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, False, True, False, False]
    words = [text.get_text() for text in ax.texts]
    assert {"bit-identical", "0.94 (no drop)", "0.93 (-0.0100)", "0.95 (+0.0100)"} <= set(words)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(frame["name"])
    assert "accuracy" in ax.get_title(loc="left") and ax.get_xscale() == "log"


def test_no_label_is_cut_and_nothing_to_draw_is_said(frame):
    figure = wb.plots.plot_precisions(frame)
    figure.canvas.draw()
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        assert extent.x0 >= figure.bbox.x0 - 1 and extent.x1 <= figure.bbox.x1 + 1, text.get_text()
    empty = wb.plots.plot_precisions(frame.iloc[:0])
    assert "No engine" in empty.axes[0].texts[0].get_text()
