"""Quantization error per layer: SQNR of the outputs if one layer alone is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.compress.steps import Quantize
from workbench.core.format.numbers import plural
from workbench.plots.drawing.figure import (
    TEXT,
    axes_or_new,
    empty_chart,
    escaped,
    figure_of,
    legend_right,
    set_labels,
    set_title,
)
from workbench.plots.drawing.lines import lines, shades

if TYPE_CHECKING:
    from workbench.compress.variant import Variant


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
    """Draw the frame of :func:`layer_rounding_data`, a line for each name over the layers.

    Examples
    --------
    >>> plot_layer_rounding(layer_rounding_data(variants, original))  # doctest: +SKIP
    """
    if frame.empty:
        return empty_chart(
            ax, "No layer to draw: give variants whose only step is Quantize, without training or equalization."
        )
    target = axes_or_new(ax, 9.0, 4.4)
    layers = list(dict.fromkeys(frame["layer"]))
    finite = frame[np.isfinite(frame["sqnr_db"])]
    looks = shades(list(dict.fromkeys(frame["name"])), markers=True)
    lines(target, finite.assign(place=finite["layer"].map(layers.index)), "place", "sqnr_db", hue="name", looks=looks)
    names = [escaped(layer) for layer in layers]
    target.set_xticks(range(len(layers)), names, fontsize=TEXT - 1, rotation=45, ha="right", rotation_mode="anchor")
    set_labels(target, y="SQNR of the outputs (dB) ↑")
    legend_right(target)
    set_title(target, "SQNR if one layer is rounded", f"{plural(len(layers), 'layer')}, all others in float")
    return figure_of(target)
