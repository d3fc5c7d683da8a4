"""Bars of signal to error: their data, and the words when there is none."""

from __future__ import annotations

import math

import pytest

from workbench.core.errors import ConfigError
from workbench.measure.accuracy.debug import AccuracyReport
from workbench.measure.accuracy.layer_sqnr import LayerSignal
from workbench.plots import figure_png, layer_sqnr_data, plot_layer_sqnr


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
    with pytest.raises(ConfigError, match=r"takes what wb.debug_accuracy\(...\) returns"):
        layer_sqnr_data({})
