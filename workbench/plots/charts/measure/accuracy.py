"""Accuracy of engines: SQNR of each layer, and difference from the float model by compute precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import plural
from workbench.export.agreement import compare_outputs
from workbench.plots.drawing.figure import TEXT, annotate, axes_or_new, describe, empty_chart
from workbench.plots.drawing.frames import require
from workbench.plots.drawing.marks import DOT, bar_rows, column_text, dot_rows, set_rows
from workbench.present import style
from workbench.tasks.trees import leaves

_ROW, _MOST_NAMED = 0.22, 80


def layer_sqnr_data(report: Any) -> pd.DataFrame:
    """Return a row per layer in the order of computation: layer, op, sqnr_db, and whether it is among the worst.

    The worst are the layers within 3 dB (a factor of two in energy) of the lowest ratio.
    """
    require(hasattr(report, "layer_frame"), "plot_layer_sqnr", "the result of wb.debug_accuracy(...)", report)
    frame: pd.DataFrame = report.layer_frame().astype({"sqnr_db": float})
    finite = frame["sqnr_db"][np.isfinite(frame["sqnr_db"])]
    return frame.assign(worst=frame["sqnr_db"] <= finite.min() + 3 if len(finite) else False)


def plot_layer_sqnr(report: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the SQNR of each layer of ``wb.debug_accuracy(task, variant)`` as a bar, first layer on top."""
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
    missing = f", {plural(len(report.unaligned), 'layer')} not compared" if report.unaligned else ""
    models = f"{report.candidate} against {report.reference}"
    detail = f"{report.task} on {report.backend}: {models}; worst in orange{missing}"
    return describe(target, "Per-layer SQNR", detail, x="SQNR (dB) ↑; -10 dB: ten times the error energy")


COLUMNS = ["name", "backend", "requested", "precision", "share", "tolerance", "quality", "drop"]
_LOWEST = 1e-9
"""Identical outputs are drawn here, because a log scale has no zero."""


def precision_data(
    engines: Mapping[str, Any], task: Any, *, reference: Callable[[Any], Any] | None = None, split: str = "validation"
) -> pd.DataFrame:
    """Return a row for each engine: requested and actual precision, difference from the float model, quality.

    ``engines`` are those of one model by the name for the chart; all samples of ``split`` are run. ``reference`` is the
    float model, by default the task's own. ``share`` is the largest difference from the reference over its largest
    value, ``tolerance`` the accepted ``share``, ``drop`` the loss of ``quality`` in its own unit.
    """
    float_outputs = task.outputs(reference or task.model(), split, 64)
    expected, best = _arrays(float_outputs), task.score(float_outputs, split)
    rows = []
    for name, engine in engines.items():
        outputs = task.outputs(lambda x, engine=engine: engine.predict(x).result, split, 64)
        quality = task.score(outputs, split)
        limit = engine.config.accepted(engine.precision, quantized=False)
        share = compare_outputs(expected, _arrays(outputs)).share
        requested = engine.config.precision.compute
        rows.append([name, engine.backend, requested, engine.precision, share, limit, quality, best - quality])
    return pd.DataFrame(rows, columns=COLUMNS)


def _arrays(tree: Any) -> list[np.ndarray[Any, Any]]:
    """Return the float outputs; an integer output, such as an arg max, may change with the last bits."""
    return [leaf.numpy() for leaf in leaves(tree) if leaf.is_floating_point()]


def plot_precisions(frame: pd.DataFrame, *, metric: str = "quality", ax: Axes | None = None) -> Figure:
    """Draw the difference of each engine from the float model on a log scale, with its tolerance and quality.

    ``frame`` is that of :func:`precision_data`, ``metric`` the name of the task's metric.
    """
    if frame.empty:
        return empty_chart(ax, "No engine to draw: give at least one.")
    target = axes_or_new(ax, 8.2, 1.5 + 0.36 * max(2, len(frame)))
    rows, shares = frame.to_dict("records"), frame["share"].clip(lower=_LOWEST).to_list()
    stem = {"color": style.FAINT, "linewidth": 1.2, "zorder": 2}
    dot_rows(target, shares, low=[_LOWEST / 2] * len(rows), high=shares, looks=[_look(row) for row in rows], bar=stem)
    for place, row in enumerate(rows):
        limit: dict[str, Any] = {"marker": "|", "markersize": 16, "markeredgewidth": 2.2, "color": style.INK}
        target.plot(row["tolerance"], place, zorder=3, **limit)
        if row["share"] == 0:
            annotate(target, "bit-identical", (_LOWEST, place), (8, 0), fontsize=TEXT - 1, color=style.MUTED)
        change = f"{-row['drop']:+.4f}" if row["drop"] else "no drop"
        column_text(target, place, f"{row['quality']:.4g} ({change})")
    target.set_xscale("log")
    target.set_xlim(_LOWEST / 2, 2.0)
    set_rows(target, list(frame["name"]))
    key = f"|: tolerance; hollow: not the requested precision; right: {metric} and its change"
    label = "Max. difference from the float model (share of its largest output) ↓"
    return describe(target, "Accuracy by compute precision", key, x=label)


def _look(row: Mapping[Any, Any]) -> dict[str, Any]:
    color = DOT if row["share"] <= row["tolerance"] else style.BAD
    as_requested = row["requested"] in (row["precision"], "auto")
    return {"color": color, "markersize": 7, "markerfacecolor": color if as_requested else "white"}
