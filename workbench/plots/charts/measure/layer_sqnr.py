"""Signal-to-quantization-noise ratio of each layer as bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import plural
from workbench.plots.drawing.figure import axes_or_new, empty_chart, figure_of, set_labels, set_title
from workbench.plots.drawing.frames import require
from workbench.plots.drawing.rows import bar_rows, set_rows
from workbench.present import style

_ROW, _MOST_NAMED = 0.22, 80


def layer_sqnr_data(report: Any) -> pd.DataFrame:
    """Return a row per layer in the order of computation: layer, op, sqnr_db, and whether it is among the worst.

    The worst are the layers within 3 dB (a factor of two in energy) of the lowest ratio.
    """
    require(hasattr(report, "layer_frame"), "plot_layer_sqnr", "what wb.debug_accuracy(...) returns", report)
    frame: pd.DataFrame = report.layer_frame().astype({"sqnr_db": float})
    finite = frame["sqnr_db"][np.isfinite(frame["sqnr_db"])]
    return frame.assign(worst=frame["sqnr_db"] <= finite.min() + 3 if len(finite) else False)


def plot_layer_sqnr(report: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the SQNR of each layer as a bar, first layer on top.

    Examples
    --------
    >>> plot_layer_sqnr(wb.debug_accuracy(task, variant))  # doctest: +SKIP
    """
    frame = layer_sqnr_data(report)
    if frame.empty:
        return empty_chart(ax, " ".join(report.notes) or "No layer could be compared.")
    target = axes_or_new(ax, 7.6, min(24.0, 1.5 + _ROW * max(4, len(frame))))
    values = frame["sqnr_db"].to_numpy(dtype=float)
    lengths = np.where(np.isfinite(values), values, values[np.isfinite(values)].max(initial=1.0))
    colors = [style.BAD if worst else style.TECHNIQUES["quantize"].color for worst in frame["worst"]]
    looks = [{"height": 0.7, "color": color, "edgecolor": style.INK, "linewidth": 0.4} for color in colors]
    texts = [f"{value:.1f}" if np.isfinite(value) else "exact" for value in values]
    bar_rows(target, lengths.tolist(), texts if len(frame) <= _MOST_NAMED else (), looks=looks, room=1.12)
    set_rows(target, list(frame["layer"]), step=1 + len(frame) // _MOST_NAMED)
    set_labels(target, "SQNR (dB) ↑; -10 dB: ten times the error energy")
    missing = f", {plural(len(report.unaligned), 'layer')} not compared" if report.unaligned else ""
    models = f"{report.candidate} against {report.reference}"
    set_title(target, "Per-layer SQNR", f"{report.task} on {report.backend}: {models}; worst in orange{missing}")
    return figure_of(target)
