"""Floating horizontal bars: how a figure changes from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from workbench.plots.drawing.figure import TEXT, name_rows, plain, title
from workbench.present import style

HEIGHT = 0.56
GAIN: dict[str, Any] = {"facecolor": style.GOOD, "edgecolor": style.INK, "linewidth": 0.6}
COST: dict[str, Any] = {"facecolor": "#F6D6C1", "edgecolor": style.BAD, "linewidth": 0.6, "hatch": "////"}


@dataclass(frozen=True)
class Measure:
    """One panel: the column, its title and unit, and the word for how it is known.

    A ``structural`` figure is the same for two stages of one structure, and was taken once for both. ``result`` is
    the text of the ratio if that was measured directly, and not from two separate figures.
    """

    column: str
    name: str
    unit: str
    verb: str
    scale: float = 1.0
    higher_is_better: bool = False
    structural: bool = False
    result: str = ""


def draw_measure(ax: Axes, frame: pd.DataFrame, measure: Measure, *, first: bool) -> None:
    """Draw a measure from the first stage to the last, with the result as a full bar below.

    A gain is plain green, a cost is hatched orange; the change is written beside each bar. A stage whose figure
    is unknown gets a word instead, and the next known stage shows the change of both together.
    """
    values = frame[measure.column].to_numpy(dtype=float) * measure.scale
    known = np.flatnonzero(~np.isnan(values))
    first_known, last_known = int(known[0]), int(known[-1])
    start, end = float(values[first_known]), float(values[last_known])
    zero = _scale(ax, measure, float(np.nanmin(values)), float(np.nanmax(values)))
    _full_bar(ax, first_known, start, zero, style.FAINT)
    _words(ax, first_known, max(start, zero), _number(start), style.INK)
    previous, since = start, first_known
    for place in range(len(frame)):
        if np.isnan(values[place]):
            _words(ax, place, previous, f"not {measure.verb} alone", style.MUTED)
        elif place > first_known:
            together = "" if place - since == 1 else f" ({place - since} steps)"
            shared = frame["timed_at"].iloc[place] == frame["timed_at"].iloc[place - 1]
            same = "same model" if frame["kind"].iloc[place] == "backend" else "no change"
            same = "same structure" if shared and measure.structural else same
            _step_bar(ax, place, previous, float(values[place]), measure, together, same)
            ax.plot([previous] * 2, [since, place], color=style.MUTED, linewidth=0.7, zorder=2)
            previous, since = float(values[place]), place
    if last_known == len(frame) - 1:
        _full_bar(ax, len(frame), end, zero, style.INK)
        ax.plot([end] * 2, [len(frame) - 1, len(frame)], color=style.MUTED, linewidth=0.7, zorder=2)
        _words(ax, len(frame), max(end, zero), f"{_number(end)}{_ratio(start, end, measure)}", style.INK, bold=True)
    title(ax, measure.name, measure.unit)
    ax.set_ylim(len(frame) + 0.6, -0.6)
    name_rows(ax, shown=first)


def name_stages(ax: Axes, names: Sequence[str]) -> None:
    """Write the stages' names at the left, one a bar, the last one bold."""
    ax.set_yticks(range(len(names)), [plain(_short(name)) for name in names], fontsize=TEXT)
    ax.get_yticklabels()[-1].set_fontweight("bold")


def gain_key(ax: Axes) -> None:
    """Explain the two looks of a bar, below the axes at the right."""
    handles = [Patch(label="gain", **GAIN), Patch(label="cost", **COST)]
    place: dict[str, Any] = {"loc": "upper right", "bbox_to_anchor": (1.0, -0.09), "borderaxespad": 0.0}
    ax.legend(handles=handles, ncols=2, frameon=False, fontsize=TEXT - 0.5, **place)


def _scale(ax: Axes, measure: Measure, low: float, high: float) -> float:
    """Set the x range with room for words at the right; returns where full bars start."""
    if measure.higher_is_better:
        span = (high - low) or 0.02 * abs(high) or 1.0
        left, right = low - 0.35 * span, high + 1.15 * span
    else:
        left, right = 0.0, (high or 1.0) * 1.55
    ax.set_xlim(left, right)
    ax.set_xticks([t for t in MaxNLocator(5).tick_values(left, right) if left <= t <= high + 0.05 * (high - left)])
    return left


def _full_bar(ax: Axes, place: int, value: float, zero: float, colour: str) -> None:
    ax.barh(place, value - zero, left=zero, height=HEIGHT, color=colour, edgecolor=style.INK, linewidth=0.6, zorder=3)


def _step_bar(ax: Axes, place: int, before: float, after: float, measure: Measure, together: str, same: str) -> None:
    change = after - before
    if abs(change) <= 1e-9 * max(abs(before), 1e-12):
        _words(ax, place, before, f"{same}{together}", style.MUTED)
        return
    gain = (change > 0) == measure.higher_is_better
    ax.barh(place, change, left=before, height=HEIGHT, zorder=3, **(GAIN if gain else COST))
    sign = "+" if change > 0 else "−"
    _words(ax, place, max(before, after), f"{sign}{_number(abs(change))}{together}", style.INK)


def _words(ax: Axes, place: int, x: float, words: str, colour: str, *, bold: bool = False) -> None:
    ax.annotate(
        words,
        (x, place),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=TEXT - 0.5,
        color=colour,
        fontweight="bold" if bold else "normal",
        zorder=6,
    )


def _ratio(start: float, end: float, measure: Measure) -> str:
    if measure.higher_is_better:
        change = end - start
        return f" ({'+' if change >= 0 else '−'}{_number(abs(change))})"
    if measure.result:
        return f" ({measure.result})"
    if end <= 0 or abs(start / end - 1) < 0.005:
        return ""
    return f" ({start / end:.3g}x less)" if start > end else f" ({end / start:.3g}x more)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _short(name: str, limit: int = 30) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
