"""Accuracy of engines by compute precision: difference from the float model, tolerance and quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.export.agreement import compare_outputs
from workbench.plots.drawing.figure import TEXT, annotate, axes_or_new, empty_chart, figure_of, set_labels, set_title
from workbench.plots.drawing.rows import DOT, column_text, dot_rows, set_rows
from workbench.present import style
from workbench.tasks.trees import leaves

COLUMNS = ["name", "backend", "requested", "precision", "share", "tolerance", "quality", "drop"]
_LOWEST = 1e-9
"""Identical outputs are drawn here, because a log scale has no zero."""


def precision_data(
    engines: Mapping[str, Any], task: Any, *, reference: Callable[[Any], Any] | None = None, split: str = "validation"
) -> pd.DataFrame:
    """Return a row for each engine: requested and actual precision, difference from the float model, quality.

    Parameters
    ----------
    engines
        Engines of one model, by the name for the chart.
    task
        The task of the model; all samples of ``split`` are run.
    reference
        The float model; None: the task's own.

    Returns
    -------
    DataFrame
        ``share`` is the largest difference from the reference over its largest value, ``tolerance`` the accepted
        ``share``, ``drop`` the loss of ``quality`` in its own unit.
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

    Parameters
    ----------
    frame
        The frame of :func:`precision_data`.
    metric
        The name of the task's metric.

    Examples
    --------
    >>> plot_precisions(precision_data(engines, task))  # doctest: +SKIP
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
    set_labels(target, "Max. difference from the float model (share of its largest output) ↓")
    key = f"|: tolerance; hollow: not the requested precision; right: {metric} and its change"
    set_title(target, "Accuracy by compute precision", key)
    return figure_of(target)


def _look(row: Mapping[Any, Any]) -> dict[str, Any]:
    color = DOT if row["share"] <= row["tolerance"] else style.BAD
    as_requested = row["requested"] in (row["precision"], "auto")
    return {"color": color, "markersize": 7, "markerfacecolor": color if as_requested else "white"}
