"""Quantization: modes by size, error and quality; SQNR of the outputs if one layer alone is rounded."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.compress.graph.outputs import relative_squared_error
from workbench.compress.quantize.modes import mode_of, refusal
from workbench.compress.steps import Quantize
from workbench.core.format.numbers import plural
from workbench.core.stats import bootstrap_drop
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.measure.accuracy.layer_sqnr import sqnr_db
from workbench.plots.drawing.figure import (
    TEXT,
    annotate,
    axes_or_new,
    describe,
    empty_chart,
    escaped,
    legend_right,
    new_figure,
)
from workbench.plots.drawing.marks import bar_rows, dot_rows, lines, plain_rows, set_rows, shades
from workbench.present import style
from workbench.tasks.trees import batch_size, leaves, tree_map

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

MODE_COLUMNS = ["name", "mode", "size_kib", "sqnr_db", "quality", "drop_points", "drop_low", "drop_high"]
_ROW, _WIDTHS = 0.27, (1.1, 1.1, 1.3, 0.55)
_FLOAT_ARITHMETIC = "weights"  # part of the names of weight-only modes


def quantize_modes_data(variants: Mapping[str, Variant], original: Variant) -> pd.DataFrame:
    """Return a row per variant and one for ``original``, the largest file first.

    ``size_kib`` is the size of the ONNX file, ``sqnr_db`` the SQNR of the outputs against the float model (infinite if
    identical), ``quality`` the task's metric and ``drop_points`` its drop in hundredths, with a paired 95 % CI over
    resampled examples (NaN if the metric cannot be resampled); all on the *validation* split. One more column per
    backend holds the reason if it does not run the mode.

    Raises
    ------
    ExportError
        If a variant cannot be written as ONNX.
    """
    expected = _outputs(original)
    rows = [_row(name, variant, original, expected) for name, variant in {"float": original, **variants}.items()]
    frame = pd.DataFrame(rows, columns=[*MODE_COLUMNS, *DEFAULT_BACKENDS])
    return frame.sort_values(["size_kib", "sqnr_db"], ascending=False, kind="stable", ignore_index=True)


def _row(name: str, variant: Variant, original: Variant, expected: Any) -> dict[str, Any]:
    actual = expected if variant is original else _outputs(variant)
    steps = variant.recipe.steps
    mode = mode_of(steps[-1]) if steps and isinstance(steps[-1], Quantize) else None
    low, high = _interval(original, expected, actual)
    return {
        "name": name,
        "mode": mode or "float",
        "size_kib": _size_kib(variant),
        "sqnr_db": sqnr_db(1.0, relative_squared_error(leaves(expected), leaves(actual))),
        "quality": variant.quality,
        "drop_points": 100 * (original.quality - variant.quality),
        "drop_low": 100 * low,
        "drop_high": 100 * high,
        **{engine: refusal(mode, engine) or "" for engine in DEFAULT_BACKENDS},
    }


def _outputs(variant: Variant) -> Any:
    return variant.task.outputs(variant.predict, "validation")


def _size_kib(variant: Variant) -> float:
    from workbench.export.onnx import export_onnx

    task = variant.task
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(variant.module, task.examples(2), path, names=task.parameter_names)
        return path.stat().st_size / 1024


def _interval(original: Variant, expected: Any, actual: Any) -> tuple[float, float]:
    import torch

    task = original.task
    targets = task.validation.targets

    def score(indices: Any) -> tuple[float, float]:
        index = torch.from_numpy(indices)
        before, after, right = (tree_map(lambda leaf: leaf[index], tree) for tree in (expected, actual, targets))
        return float(task.metric(before, right)), float(task.metric(after, right))

    try:
        return bootstrap_drop(score, batch_size(expected))
    except Exception:  # noqa: BLE001 - the user's metric may fail on a resample
        return math.nan, math.nan


def plot_quantize_modes(frame: pd.DataFrame) -> Figure:
    """Draw the frame of :func:`quantize_modes_data`: a row per mode with size, SQNR, quality drop and backends."""
    if len(frame) < 2:
        return empty_chart(None, "No mode to draw: give at least one variant besides the float model.")
    figure, axes = new_figure(11.4, 1.5 + _ROW * len(frame), columns=4, share_y=True)
    axes[0].get_gridspec().set_width_ratios(_WIDTHS)  # type: ignore[union-attr]
    sizes, errors, drops, engines = axes
    looks = [_look(mode) for mode in frame["mode"]]
    values = frame["size_kib"].to_list()
    fills = [{"height": 0.66, "color": k["markerfacecolor"], "edgecolor": k["color"], "linewidth": 1.0} for k in looks]
    bar_rows(sizes, values, [f"{size:,.0f}" for size in values], looks=fills, room=1.2)
    describe(sizes, "Size", "hollow: float arithmetic", x="ONNX file (KiB) ↓")
    dot_rows(errors, frame["sqnr_db"].to_list(), looks=looks)
    for place in np.flatnonzero(frame["sqnr_db"] == math.inf):
        at: dict[str, Any] = {"coords": errors.get_yaxis_transform(), "ha": "right"}
        annotate(errors, "exact", (1, place), (-4, 0), color=style.MUTED, **at)
    describe(errors, "Output error", "+6 dB: half the error", x="SQNR of the outputs (dB) ↑")
    drops.axvline(0, color=style.MUTED, linestyle=":", linewidth=1)
    interval = {"color": style.FAINT, "linewidth": 4, "zorder": 2}
    ends = {"low": frame["drop_low"].to_list(), "high": frame["drop_high"].to_list()}
    dot_rows(drops, frame["drop_points"].to_list(), looks=looks, bar=interval, **ends)
    describe(drops, "Quality drop", "gray: paired 95 % CI", x="Validation quality drop (points) ↓")
    _draw_engines(engines, frame)
    set_rows(sizes, frame["name"].tolist())
    for ax in axes:
        plain_rows(ax)
    return figure


def _look(mode: str) -> dict[str, Any]:
    """Return the look of a mode; hollow if the arithmetic stays in float."""
    mark = style.TECHNIQUES["float" if mode == "float" else "quantize"]
    hollow = mode == "float" or _FLOAT_ARITHMETIC in mode
    return {"color": mark.color, "marker": "o", "markersize": 7, "markerfacecolor": "white" if hollow else mark.color}


def _draw_engines(ax: Axes, frame: pd.DataFrame) -> None:
    for column, engine in enumerate(DEFAULT_BACKENDS):
        for place, refusal_reason in enumerate(frame[engine]):
            color, marker = (style.BAD, "x") if refusal_reason else (style.GOOD, "o")
            ax.plot(column, place, color=color, marker=marker, markersize=6, linestyle="none")
    names = [style.backend(engine).word for engine in DEFAULT_BACKENDS]
    ax.set_xticks(range(len(names)), names, fontsize=TEXT - 1, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.grid(visible=False)
    describe(ax, "Backends", "x: refused")


def layer_rounding_data(variants: Mapping[str, Variant], original: Variant, *, samples: int = 64) -> pd.DataFrame:
    """Return name, layer and sqnr_db: the SQNR of the model's outputs if that layer alone is rounded.

    Layers are in the order of computation, samples from the calibration split. A variant has rows only if its single
    step is ``Quantize`` by the qdq route without training, equalization or bias correction: only then do its layers
    correspond to those of the float model.
    """
    from workbench.compress.graph.capture import capture
    from workbench.compress.quantize.apply import output_sqnr

    task = original.task
    graph = capture(original.module, task.examples(2))
    inputs = task.calibration.take(range(min(samples, len(task.calibration)))).inputs
    rows = [
        {"name": name, "layer": layer, "sqnr_db": ratio}
        for name, variant in variants.items()
        if _is_comparable(variant)
        for layer, ratio in output_sqnr(graph, variant.module, inputs).items()  # type: ignore[arg-type]
    ]
    return pd.DataFrame(rows, columns=["name", "layer", "sqnr_db"])


def _is_comparable(variant: Variant) -> bool:
    steps = variant.recipe.steps
    if len(steps) != 1 or not isinstance(steps[0], Quantize):
        return False
    step = steps[0]
    return step.route == "qdq" and step.equalize == "none" and not (step.qat_epochs or step.bias_correction)


def plot_layer_rounding(frame: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw the frame of :func:`layer_rounding_data`, a line for each name over the layers."""
    if frame.empty:
        reason = "No layer to draw: give variants whose only step is Quantize, without training or equalization."
        return empty_chart(ax, reason)
    target = axes_or_new(ax, 9.0, 4.4)
    layers = list(dict.fromkeys(frame["layer"]))
    finite = frame[np.isfinite(frame["sqnr_db"])]
    looks = shades(list(dict.fromkeys(frame["name"])), markers=True)
    lines(target, finite.assign(place=finite["layer"].map(layers.index)), "place", "sqnr_db", hue="name", looks=looks)
    names = [escaped(layer) for layer in layers]
    target.set_xticks(range(len(layers)), names, fontsize=TEXT - 1, rotation=45, ha="right", rotation_mode="anchor")
    legend_right(target)
    detail = f"{plural(len(layers), 'layer')}, all others in float"
    return describe(target, "SQNR if one layer is rounded", detail, y="SQNR of the outputs (dB) ↑")
