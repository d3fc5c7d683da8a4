"""How far engines in several precisions are from the float model, and what that costs in quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.export.agreement import compare_outputs
from workbench.plots.drawing.figure import TEXT, axes_or_new, name_rows, plain, say, title
from workbench.present import style
from workbench.tasks.trees import leaves

COLUMNS = ["name", "backend", "asked", "precision", "share", "tolerance", "quality", "drop"]
_BLUE = "#0072B2"
_LOWEST = 1e-9
"""Outputs that are the same to the last bit are drawn here: a log scale has no zero."""


def precision_data(
    engines: Mapping[str, Any], task: Any, *, reference: Callable[[Any], Any] | None = None, split: str = "validation"
) -> pd.DataFrame:
    """Return a row for each engine: what it was asked for and computes in, its distance and its quality.

    Parameters
    ----------
    engines
        Engines of one model, by the name that the chart gives them.
    task
        What the model is for; all samples of ``split`` are run.
    reference
        The float model itself; None: the task's own.

    Returns
    -------
    DataFrame
        ``share`` is the largest difference from the reference over its largest value, ``tolerance`` what the engine
        accepts of it, ``drop`` the loss of ``quality`` in its own unit.
    """
    float_outputs = task.outputs(reference or task.model(), split, 64)
    wanted, best = _arrays(float_outputs), task.score(float_outputs, split)
    rows = []
    for name, engine in engines.items():
        outputs = task.outputs(lambda x, engine=engine: engine.predict(x).result, split, 64)
        quality = task.score(outputs, split)
        limit = engine.config.accepted(engine.precision, quantized=False)
        share = compare_outputs(wanted, _arrays(outputs)).share
        asked = engine.config.precision.compute
        rows.append([name, engine.backend, asked, engine.precision, share, limit, quality, best - quality])
    return pd.DataFrame(rows, columns=COLUMNS)


def _arrays(tree: Any) -> list[np.ndarray[Any, Any]]:
    """Return the float outputs: an index of the largest value may change with its last bits."""
    return [leaf.numpy() for leaf in leaves(tree) if leaf.is_floating_point()]


def plot_precisions(frame: pd.DataFrame, *, metric: str = "quality", ax: Axes | None = None) -> Figure:
    """Draw the distance of each engine from the float model on a log scale, with what it accepts and its quality.

    Parameters
    ----------
    frame
        What :func:`precision_data` gives.
    metric
        What the quality is called.

    Examples
    --------
    >>> plot_precisions(precision_data(engines, task))  # doctest: +SKIP
    """
    figure, ax = axes_or_new(ax, 8.2, 1.5 + 0.36 * max(2, len(frame)))
    if frame.empty:
        say(ax, "No engine to draw: give at least one.")
        return figure
    for place, row in enumerate(frame.to_dict("records")):
        _row(ax, place, row)
    ax.set_xscale("log")
    ax.set_xlim(_LOWEST / 2, 2.0)
    ax.set_yticks(range(len(frame)), [plain(name) for name in frame["name"]], fontsize=TEXT)
    ax.set_ylim(len(frame) - 0.4, -0.6)
    name_rows(ax)
    ax.set_xlabel("largest difference from the float model, as a share of its largest output", fontsize=TEXT)
    detail = f"| what is accepted; hollow: computed in another precision than asked; right: {metric} and its drop"
    title(ax, "What a precision costs", detail)
    return figure


def _row(ax: Axes, place: int, row: Mapping[Any, Any]) -> None:
    share = max(row["share"], _LOWEST)
    colour = _BLUE if row["share"] <= row["tolerance"] else style.BAD
    as_asked = row["asked"] in (row["precision"], "auto")
    ax.hlines(place, _LOWEST / 2, share, color=style.FAINT, linewidth=1.2, zorder=2)
    ax.plot(
        share, place, marker="o", markersize=7, color=colour, markerfacecolor=colour if as_asked else "white", zorder=4
    )
    ax.plot(row["tolerance"], place, marker="|", markersize=16, markeredgewidth=2.2, color=style.INK, zorder=3)
    if row["share"] == 0:
        ax.annotate(
            "the same to the last bit", (share, place), (8, 0), textcoords="offset points", va="center",
            fontsize=TEXT - 1, color=style.MUTED,
        )  # fmt: skip
    words = f"{row['quality']:.4g} ({-row['drop']:+.4f})" if row["drop"] else f"{row['quality']:.4g} (no drop)"
    ax.annotate(
        words, (1.0, place), (6, 0), ax.get_yaxis_transform(), "offset points", va="center", fontsize=TEXT - 0.5,
        color=style.INK, annotation_clip=False,
    )  # fmt: skip
