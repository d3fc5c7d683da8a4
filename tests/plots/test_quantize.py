"""Modes of quantization side by side: their numbers against direct computation, and what the charts say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from paths import SUPPORT

import workbench as wb
from workbench.compress.quantize.modes import MODES
from workbench.plots import (
    figure_png,
    layer_rounding_data,
    plot_layer_rounding,
    plot_quantize_modes,
    quantize_modes_data,
)
from workbench.present import style as looks

STEPS = {
    "static": wb.Quantize(),
    "dynamic": wb.Quantize(activations="dynamic"),
    "small": wb.Quantize(bits=4, activations="none"),
    "theirs": wb.Quantize(route="onnxruntime"),
}


@pytest.fixture(scope="module")
def task():

    return wb.load_task(f"{SUPPORT / 'tiny.py'}:tiny")


@pytest.fixture(scope="module")
def original(task):
    return wb.Variant.original(task)


@pytest.fixture(scope="module")
def variants(task):
    return {name: wb.Recipe(step).apply(task) for name, step in STEPS.items()}


@pytest.fixture(scope="module")
def frame(variants, original):
    return quantize_modes_data(variants, original)


@pytest.mark.slow
def test_sizes_are_those_of_saved_files_and_the_largest_comes_first(variants, original, frame, tmp_path):
    sizes = frame.set_index("name")["size_kib"]
    for name in ("static", "dynamic", "small"):
        variants[name].save(tmp_path / name)
        assert sizes[name] == pytest.approx((tmp_path / name / "model.onnx").stat().st_size / 1024, rel=0.01)
    original.save(tmp_path / "float")
    assert sizes["float"] == pytest.approx((tmp_path / "float" / "model.onnx").stat().st_size / 1024, rel=0.01)
    assert sizes["theirs"] == len(variants["theirs"].module.content) / 1024  # it is a file already
    assert list(frame["size_kib"]) == sorted(frame["size_kib"], reverse=True)
    assert frame["name"][0] == "float"


def test_errors_and_drops_are_those_of_the_validation_outputs(variants, original, frame):
    rows = frame.set_index("name")
    inputs, labels = original.task.validation.inputs, original.task.validation.targets.numpy()
    wanted = original.predict(inputs).double().numpy()
    for name in ("static", "small", "theirs"):
        got = variants[name].predict(inputs).double().numpy()
        ratio = 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum())
        assert rows["sqnr_db"][name] == pytest.approx(ratio, abs=0.05)
        right = [(logits.argmax(1) == labels).mean() for logits in (wanted, got)]
        assert rows["drop_points"][name] == pytest.approx(100 * (right[0] - right[1]), abs=1e-4)
        assert rows["drop_low"][name] <= rows["drop_points"][name] <= rows["drop_high"][name]
    assert rows["sqnr_db"]["float"] == math.inf
    assert rows.loc["float", ["drop_points", "drop_low", "drop_high"]].tolist() == [0.0, 0.0, 0.0]


def test_engines_stand_there_with_the_reason_of_the_table_of_modes(frame):
    rows = frame.set_index("name")
    assert rows["mode"].to_dict() == {
        "float": "float",
        "static": "static",
        "dynamic": "dynamic",
        "small": "4-bit weights",
        "theirs": "onnxruntime",
    }
    for engine in ("torch-eager", "onnxruntime", "openvino"):
        assert rows[engine].to_dict() == {
            name: MODES.get(mode, {}).get(engine, "") for name, mode in rows["mode"].items()
        }


@pytest.mark.slow
def test_a_metric_that_cannot_be_resampled_leaves_the_interval_out(variants, original, monkeypatch):
    whole, metric = original.task.validation.targets, original.task.metric

    def picky(outputs, targets):
        if not torch.equal(targets, whole):
            raise ValueError("a class is missing")
        return metric(outputs, targets)

    monkeypatch.setattr(original.task, "metric", picky)
    found = quantize_modes_data({"small": variants["small"]}, original)
    assert found[["drop_low", "drop_high"]].isna().all(axis=None)
    assert figure_png(plot_quantize_modes(found)).startswith(b"\x89PNG")


def test_the_chart_has_a_row_per_mode_and_a_cross_per_refusal(frame):
    figure = plot_quantize_modes(frame)
    assert figure_png(figure).startswith(b"\x89PNG")
    sizes, errors, drops, engines = figure.axes
    assert [label.get_text() for label in sizes.get_yticklabels()] == list(frame["name"])
    assert [bar.get_width() for bar in sizes.patches] == pytest.approx(list(frame["size_kib"]))
    dots = {line.get_ydata()[0]: line for line in errors.get_lines()}
    assert {place: line.get_xdata()[0] for place, line in dots.items()} == pytest.approx(
        {place: ratio for place, ratio in enumerate(frame["sqnr_db"]) if math.isfinite(ratio)}
    )
    hollow = {frame["name"][place] for place, line in dots.items() if line.get_markerfacecolor() == "white"}
    assert hollow == {"small"}
    refused = {(line.get_xdata()[0], frame["name"][line.get_ydata()[0]]) for line in engines.get_lines()
               if line.get_marker() == "x"}  # fmt: skip
    assert refused == {(0, "theirs"), (2, "dynamic")}
    assert "KiB" in sizes.get_xlabel() and "dB" in errors.get_xlabel() and "points" in drops.get_xlabel()
    assert [text.get_text() for text in engines.get_xticklabels()] == [
        looks.backend(name).word for name in frame.columns[-3:]
    ]


def test_a_layer_alone_is_the_model_with_that_weight_rounded(variants, original):
    frame = layer_rounding_data(variants, original, samples=32)
    assert set(frame["name"]) == {"static", "dynamic", "small"}
    inputs = original.task.calibration.take(range(32)).inputs
    module = original.task.model()
    with torch.no_grad():
        wanted = module(inputs)
        weight = module.head.weight
        scale = weight.abs().amax(1, keepdim=True) / 7  # levels from -7 to 7
        weight.copy_((weight / scale).round().clamp(-7, 7) * scale)
        noise = (wanted - module(inputs)).double().square().sum()
    ratio = 10 * math.log10(float(wanted.double().square().sum() / noise))
    head = frame[(frame["name"] == "small") & (frame["layer"] == "head")]["sqnr_db"].item()
    assert head == pytest.approx(ratio, abs=0.1)


@pytest.mark.slow
def test_what_cannot_be_held_against_the_float_model_has_no_line(task, original, variants):
    others = {
        "evened": wb.Recipe(wb.Quantize(equalize="cross_layer")).apply(task),
        "biases": wb.Recipe(wb.Quantize(bias_correction=True)).apply(task),
        "cut": wb.Recipe(wb.Prune(0.3), wb.Quantize()).apply(task),
        "theirs": variants["theirs"],
        "float": original,
    }
    assert layer_rounding_data(others, original).empty
    words = plot_layer_rounding(layer_rounding_data(others, original)).axes[0].texts[0].get_text()
    assert "No layer to draw" in words


def test_every_mode_has_a_line_over_the_layers(variants, original):
    frame = layer_rounding_data(variants, original)
    ax = plot_layer_rounding(frame).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(dict.fromkeys(frame["name"]))
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == list(dict.fromkeys(frame["layer"])) and {"stem", "hidden", "head"} <= set(ticks)
    assert "dB" in ax.get_ylabel()


def test_no_mode_is_said(original):
    words = plot_quantize_modes(quantize_modes_data({}, original)).axes[0].texts[0].get_text()
    assert "No mode to draw" in words
