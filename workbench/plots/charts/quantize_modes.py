"""The modes of Quantize side by side: file size, error of the outputs, drop of quality, and who runs them."""

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
from workbench.core.stats import bootstrap_drop
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.measure.accuracy.layer_sqnr import sqnr_db
from workbench.plots.drawing.figure import (
    TEXT,
    axes_or_new,
    figure_of,
    name_rows,
    new_figure,
    plain,
    plural,
    say,
    title,
)
from workbench.present import style
from workbench.tasks.trees import batch_size, leaves, tree_map

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

MODE_COLUMNS = ["name", "mode", "size_kib", "sqnr_db", "quality", "drop_points", "drop_low", "drop_high"]
_ROW, _WIDTHS = 0.27, (1.1, 1.1, 1.3, 0.55)
_COMPUTES_IN_FLOAT = "weights"  # in the names of the modes that round nothing but weights


def quantize_modes_data(variants: Mapping[str, Variant], original: Variant) -> pd.DataFrame:
    """Return a row per variant and one for ``original``, the largest file first.

    ``size_kib`` is that of the ONNX file, ``sqnr_db`` the signal of the float model's outputs against what they moved
    (better if higher, infinite if nothing moved), ``quality`` the task's metric and ``drop_points`` how far it fell
    in hundredths, with its paired 95 % CI over resampled examples (NaN where the metric cannot be resampled);
    all on the *validation* split. Then a column per engine: empty where it runs the mode, else why it does not.

    Raises
    ------
    ExportError
        If a variant cannot be written as ONNX.

    Examples
    --------
    >>> quantize_modes_data({"int8": wb.Recipe(wb.Quantize()).apply(task)}, wb.Variant.original(task))  # doctest: +SKIP
    """
    wanted = _outputs(original)
    rows = [_row(name, variant, original, wanted) for name, variant in {"float": original, **variants}.items()]
    frame = pd.DataFrame(rows, columns=[*MODE_COLUMNS, *DEFAULT_BACKENDS])
    return frame.sort_values(["size_kib", "sqnr_db"], ascending=False, kind="stable", ignore_index=True)


def _row(name: str, variant: Variant, original: Variant, wanted: Any) -> dict[str, Any]:
    got = wanted if variant is original else _outputs(variant)
    steps = variant.recipe.steps
    mode = mode_of(steps[-1]) if steps and isinstance(steps[-1], Quantize) else None
    low, high = _interval(original, wanted, got)
    return {
        "name": name,
        "mode": mode or "float",
        "size_kib": _size_kib(variant),
        "sqnr_db": _outputs_sqnr(wanted, got),
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


def _outputs_sqnr(wanted: Any, got: Any) -> float:
    return sqnr_db(1.0, relative_squared_error(leaves(wanted), leaves(got)))


def _interval(original: Variant, wanted: Any, got: Any) -> tuple[float, float]:
    import torch

    task = original.task
    targets = task.validation.targets

    def score(indices: Any) -> tuple[float, float]:
        index = torch.from_numpy(indices)
        before, after, right = (tree_map(lambda leaf: leaf[index], tree) for tree in (wanted, got, targets))
        return float(task.metric(before, right)), float(task.metric(after, right))

    try:
        return bootstrap_drop(score, batch_size(wanted))
    except Exception:  # noqa: BLE001 - the metric is the user's code and may refuse a resample
        return math.nan, math.nan


def plot_quantize_modes(frame: pd.DataFrame) -> Figure:
    """Draw what :func:`quantize_modes_data` returned: a row per mode, and size, error, drop and engines beside it.

    Examples
    --------
    >>> plot_quantize_modes(quantize_modes_data(variants, original))  # doctest: +SKIP
    """
    if len(frame) < 2:
        figure, (ax,) = new_figure(9.0, 2.6)
        say(ax, "No mode to draw: give at least one variant beside the float model.")
        return figure
    figure, axes = new_figure(11.4, 1.5 + _ROW * len(frame), columns=4, share_y=True)
    axes[0].get_gridspec().set_width_ratios(_WIDTHS)  # type: ignore[union-attr]
    _draw_sizes(axes[0], frame)
    _draw_errors(axes[1], frame)
    _draw_drops(axes[2], frame)
    _draw_engines(axes[3], frame)
    axes[0].set_yticks(range(len(frame)), frame["name"].tolist(), fontsize=TEXT)
    axes[0].set_ylim(len(frame) - 0.4, -0.6)
    for ax in axes:
        name_rows(ax)
    return figure_of(axes[0])


def _look(mode: str) -> dict[str, Any]:
    """Return how a mode's dot is drawn: hollow where the arithmetic stays in float."""
    mark = style.TECHNIQUES["float" if mode == "float" else "quantize"]
    hollow = mode == "float" or _COMPUTES_IN_FLOAT in mode
    return {"color": mark.colour, "marker": "o", "markersize": 7, "markerfacecolor": "white" if hollow else mark.colour}


def _draw_sizes(ax: Axes, frame: pd.DataFrame) -> None:
    sizes = frame["size_kib"].to_numpy(dtype=float)
    colours = [_look(mode)["color"] for mode in frame["mode"]]
    fills = [_look(mode)["markerfacecolor"] for mode in frame["mode"]]
    ax.barh(range(len(frame)), sizes, height=0.66, color=fills, edgecolor=colours, linewidth=1.0, zorder=3)
    for place, size in enumerate(sizes):
        ax.annotate(f"{size:,.0f}", (size, place), (4, 0), textcoords="offset points", va="center", fontsize=TEXT - 1.5)
    ax.set_xlim(0, sizes.max() * 1.2)
    ax.set_xlabel("ONNX file (KiB) ↓", fontsize=TEXT)
    title(ax, "Size", "hollow: computes in float")


def _draw_errors(ax: Axes, frame: pd.DataFrame) -> None:
    for place, (ratio, mode) in enumerate(zip(frame["sqnr_db"], frame["mode"], strict=True)):
        if math.isfinite(ratio):
            ax.plot(ratio, place, linestyle="none", **_look(mode))
        elif ratio > 0:
            ax.annotate("exact", (1, place), (-4, 0), ("axes fraction", "data"), "offset points", ha="right",
                        va="center", fontsize=TEXT - 0.5, color=style.MUTED)  # fmt: skip
    ax.set_xlabel("SQNR of the outputs (dB) ↑", fontsize=TEXT)
    title(ax, "How far outputs move", "6 dB more: half the error")


def _draw_drops(ax: Axes, frame: pd.DataFrame) -> None:
    ax.axvline(0, color=style.MUTED, linestyle=":", linewidth=1)
    for place, row in enumerate(frame.to_dict("records")):
        ends = [row["drop_low"], row["drop_high"]]
        ax.plot(ends, [place, place], color=style.FAINT, linewidth=4, solid_capstyle="butt", zorder=2)
        ax.plot(row["drop_points"], place, linestyle="none", zorder=3, **_look(row["mode"]))
    ax.set_xlabel("Drop of validation quality (points) ↓", fontsize=TEXT)
    title(ax, "What the metric notices", "gray: paired 95 % CI")


def _draw_engines(ax: Axes, frame: pd.DataFrame) -> None:
    for column, engine in enumerate(DEFAULT_BACKENDS):
        runs = [not reason for reason in frame[engine]]
        for place, fine in enumerate(runs):
            colour, marker = (style.GOOD, "o") if fine else (style.BAD, "x")
            ax.plot(column, place, color=colour, marker=marker, markersize=6, linestyle="none")
    words = [style.backend(engine).word for engine in DEFAULT_BACKENDS]
    ax.set_xticks(range(len(words)), words, fontsize=TEXT - 1, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_xlim(-0.6, len(words) - 0.4)
    ax.grid(visible=False)
    title(ax, "Runs on", "x: refused")


def layer_rounding_data(variants: Mapping[str, Variant], original: Variant, *, samples: int = 64) -> pd.DataFrame:
    """Return name, layer and sqnr_db: the signal to error of the model's outputs when that layer alone is rounded.

    In the order of computation, on calibration samples. Only variants whose single step is ``Quantize`` by this
    workbench's own route can be held against the float model layer by layer, and only without training, evening out or
    bias correction; others have no rows.
    """
    from workbench.compress.graph.capture import capture
    from workbench.compress.quantize.float_layers import output_sqnr

    task = original.task
    graph = capture(original.module, task.examples(2))
    inputs = task.calibration.take(range(min(samples, len(task.calibration)))).inputs
    rows = [
        {"name": name, "layer": layer, "sqnr_db": ratio}
        for name, variant in variants.items()
        if _stays_comparable(variant)
        for layer, ratio in output_sqnr(graph, variant.module, inputs).items()  # type: ignore[arg-type]
    ]
    return pd.DataFrame(rows, columns=["name", "layer", "sqnr_db"])


def _stays_comparable(variant: Variant) -> bool:
    steps = variant.recipe.steps
    if len(steps) != 1 or not isinstance(steps[0], Quantize):
        return False
    step = steps[0]
    return step.route == "qdq" and step.equalize == "none" and not (step.qat_epochs or step.bias_correction)


def plot_layer_rounding(frame: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw what :func:`layer_rounding_data` returned, a line for each name over the layers; lower is more sensitive.

    Examples
    --------
    >>> plot_layer_rounding(layer_rounding_data(variants, original))  # doctest: +SKIP
    """
    from matplotlib import colormaps

    figure, ax = axes_or_new(ax, 9.0, 4.4)
    if frame.empty:
        say(ax, "No layer to draw: give variants whose only step is Quantize, neither trained nor evened out.")
        return figure
    layers = {layer: place for place, layer in enumerate(dict.fromkeys(frame["layer"]))}
    names = list(dict.fromkeys(frame["name"]))
    shades = colormaps["viridis"](np.linspace(0.0, 0.88, len(names)))
    for number, (shade, name) in enumerate(zip(shades, names, strict=True)):
        line = frame[(frame["name"] == name) & np.isfinite(frame["sqnr_db"])]
        places = line["layer"].map(layers)
        ax.plot(places, line["sqnr_db"], color=shade, marker="osD^vPX"[number % 7], markersize=5, label=plain(name))
    ax.set_xticks(
        range(len(layers)),
        [plain(layer) for layer in layers],
        fontsize=TEXT - 1,
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    ax.set_ylabel("SQNR of the outputs (dB) ↑", fontsize=TEXT)
    ax.legend(frameon=False, fontsize=TEXT - 0.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    title(ax, "What one layer's rounding costs", f"{plural(len(layers), 'layer')}, all others in float")
    return figure
