"""What tuning measured: a mark for each setting, its time as a share of the default's with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.plots.drawing.figure import TEXT, axes_or_new, figure_of, name_rows, plain_log, say, title, wants_log
from workbench.present import style

COLUMNS = ["stage", "name", "ms", "ratio", "ratio_low", "ratio_high", "rounds", "chosen", "reason"]
_BLUE = "#0072B2"
_LINE = 64
"""Letters of a line below the title that the axes are wide enough for."""


def tuning_data(result: Any) -> pd.DataFrame:
    """Return a row for each setting that :meth:`engine.tune` measured or left out, in that order."""
    rows = [
        {
            "stage": row.stage,
            "name": row.name,
            "ms": row.median_ms,
            "ratio": row.ratio,
            "ratio_low": row.ratio_low,
            "ratio_high": row.ratio_high,
            "rounds": row.rounds,
            "chosen": row.stage == "final" and bool(result.changes),
            "reason": row.reason or "",
        }
        for row in result.table
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def plot_tuning(result: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the time of each setting over the default's, further left is faster; the chosen one is filled.

    Parameters
    ----------
    result : TuneResult
        What :meth:`engine.tune` gave.

    Examples
    --------
    >>> plot_tuning(engine.tune())  # doctest: +SKIP
    """
    frame = tuning_data(result)
    # The best so far is measured again beside what is tried on top of it: its first mark is enough.
    again = frame.duplicated("name") & (frame["stage"] != "final")
    shown = frame[frame["ratio"].notna() & ~again].to_dict("records")
    labels = [_label(row) for row in shown]
    width = 4.9 + 0.07 * max([0, *(len(line) for label in labels for line in label.splitlines())])
    _, target = axes_or_new(ax, width, 1.5 + 0.42 * max(2, len(shown)))
    if len(shown) < 2:
        say(target, f"Nothing to draw: no setting was measured beside the default. {result.verdict}")
        return figure_of(target)
    for place, row in enumerate(shown):
        _mark(target, place, row)
    target.axvline(1.0, color=style.MUTED, linewidth=1.0, zorder=2)
    target.set_yticks(range(len(shown)), labels, fontsize=TEXT)
    target.set_ylim(len(shown) - 0.45, -0.55)
    _scale(target, min(0.95, *(row["ratio_low"] for row in shown)), max(1.05, *(row["ratio_high"] for row in shown)))
    target.set_xlabel("Time relative to the default ↓", fontsize=TEXT, color=style.INK)
    name_rows(target)
    title(target, f"Settings of {result.backend}, batch {result.batch_size}", _outcome(result))
    return figure_of(target)


def _outcome(result: Any) -> str:
    """Return what came of it; where the time did not suffice to decide, the verdict says why."""
    if result.decided:
        return f"95 % CI; {'filled green: chosen' if result.changes else 'the default stays'}"
    return textwrap.fill(f"95 % CI; undecided. {result.verdict}", _LINE)


def _scale(ax: Axes, low: float, high: float) -> None:
    """Leave room for the words at the right; a setting many times as fast is shown on a log scale."""
    if wants_log([low, high]):
        ax.set_xscale("log")
        ax.set_xlim(low * (low / high) ** 0.06, high * (high / low) ** 0.3)
        plain_log(ax.xaxis, *ax.get_xlim())
    else:
        ax.set_xlim(low - 0.06 * (high - low), high + 0.3 * (high - low))


def _mark(ax: Axes, place: int, row: Mapping[Any, Any]) -> None:
    colour = style.MUTED if row["stage"] == "default" else _BLUE
    ax.hlines(place, row["ratio_low"], row["ratio_high"], color=colour, linewidth=2.0, zorder=3)
    fill = style.GOOD if row["chosen"] else "white" if row["stage"] != "default" else colour
    ax.plot([row["ratio"]], [place], "o", markersize=6.5, color=colour, markerfacecolor=fill, zorder=4)
    ax.annotate(
        f"{row['ms']:.3g} ms", (max(row["ratio_high"], row["ratio"]), place), (7, 0), textcoords="offset points",
        va="center", fontsize=TEXT - 0.5, color=style.INK, zorder=5,
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},  # over the line at 1
    )  # fmt: skip


def _label(row: Mapping[Any, Any]) -> str:
    name = str(row["name"]).replace("'", "").replace(", ", "\n")
    return f"{name}\n(measured anew)" if row["stage"] == "final" else name
