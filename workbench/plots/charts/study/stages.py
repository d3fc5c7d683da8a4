"""Floating horizontal bars: the change of a figure from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from workbench.plots.drawing.figure import TEXT, annotate, escaped, set_title
from workbench.plots.drawing.rows import plain_rows
from workbench.present import style

HEIGHT = 0.56
GAIN: dict[str, Any] = {"facecolor": style.GOOD, "edgecolor": style.INK, "linewidth": 0.6}
COST: dict[str, Any] = {"facecolor": "#F6D6C1", "edgecolor": style.BAD, "linewidth": 0.6, "hatch": "////"}


@dataclass(frozen=True)
class Measure:
    """One panel: column, title, unit, and the participle of its measurement.

    A ``structural`` figure is measured once for two stages of the same structure. ``result`` is the text of a ratio
    that was measured directly, instead of the ratio of two separate figures.
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

    A gain is green, a cost is hatched orange; the change follows each bar. An unknown stage has a text instead, and
    the next known stage shows the change of both.
    """
    values = frame[measure.column].to_numpy(dtype=float) * measure.scale
    finite = np.flatnonzero(~np.isnan(values))
    begin, last = int(finite[0]), int(finite[-1])
    start, end = float(values[begin]), float(values[last])
    zero = _scale(ax, measure, float(np.nanmin(values)), float(np.nanmax(values)))
    _full_bar(ax, begin, start, zero, style.FAINT)
    annotate(ax, _number(start), (max(start, zero), begin))
    previous, before = start, begin
    for place in range(len(frame)):
        if np.isnan(values[place]):
            annotate(ax, f"not {measure.verb} alone", (previous, place), color=style.MUTED)
        elif place > begin:
            together = "" if place - before == 1 else f" ({place - before} steps)"
            _step_bar(ax, place, previous, float(values[place]), measure, together, _unchanged(frame, place, measure))
            ax.plot([previous] * 2, [before, place], color=style.MUTED, linewidth=0.7, zorder=2)
            previous, before = float(values[place]), place
    if last == len(frame) - 1:
        _full_bar(ax, len(frame), end, zero, style.INK)
        ax.plot([end] * 2, [len(frame) - 1, len(frame)], color=style.MUTED, linewidth=0.7, zorder=2)
        text = f"{_number(end)}{_ratio(start, end, measure)}"
        annotate(ax, text, (max(end, zero), len(frame)), fontweight="bold", zorder=6)
    set_title(ax, measure.name, measure.unit)
    ax.set_ylim(len(frame) + 0.6, -0.6)
    plain_rows(ax, shown=first)


def name_stages(ax: Axes, names: Sequence[str]) -> None:
    """Name the stages at the left, the last one bold."""
    names = [name if len(name) <= 30 else f"{name[:29]}…" for name in names]
    ax.set_yticks(range(len(names)), [escaped(name) for name in names], fontsize=TEXT)
    ax.get_yticklabels()[-1].set_fontweight("bold")


def gain_key(ax: Axes) -> None:
    """Explain the looks of gain and cost, below the axes at the right."""
    handles = [Patch(label="gain", **GAIN), Patch(label="cost", **COST)]
    place: dict[str, Any] = {"loc": "upper right", "bbox_to_anchor": (1.0, -0.09), "borderaxespad": 0.0}
    ax.legend(handles=handles, ncols=2, frameon=False, fontsize=TEXT - 0.5, **place)


def _scale(ax: Axes, measure: Measure, low: float, high: float) -> float:
    """Set the x range with room for texts at the right and return the start of full bars."""
    if measure.higher_is_better:
        span = (high - low) or 0.02 * abs(high) or 1.0
        left, right = low - 0.35 * span, high + 1.15 * span
    else:
        left, right = 0.0, (high or 1.0) * 1.55
    ax.set_xlim(left, right)
    ax.set_xticks([t for t in MaxNLocator(5).tick_values(left, right) if left <= t <= high + 0.05 * (high - left)])
    return left


def _unchanged(frame: pd.DataFrame, place: int, measure: Measure) -> str:
    """Return the text of a stage without a change."""
    if measure.structural and frame["timed_at"].iloc[place] == frame["timed_at"].iloc[place - 1]:
        return "same structure"
    return "same model" if frame["kind"].iloc[place] == "backend" else "no change"


def _full_bar(ax: Axes, place: int, value: float, zero: float, color: str) -> None:
    ax.barh(place, value - zero, left=zero, height=HEIGHT, color=color, edgecolor=style.INK, linewidth=0.6, zorder=3)


def _step_bar(
    ax: Axes, place: int, before: float, after: float, measure: Measure, together: str, unchanged: str
) -> None:
    change = after - before
    if abs(change) <= 1e-9 * max(abs(before), 1e-12):
        annotate(ax, f"{unchanged}{together}", (before, place), color=style.MUTED)
        return
    gain = (change > 0) == measure.higher_is_better
    ax.barh(place, change, left=before, height=HEIGHT, zorder=3, **(GAIN if gain else COST))
    annotate(ax, f"{_signed(change)}{together}", (max(before, after), place), zorder=6)


def _ratio(start: float, end: float, measure: Measure) -> str:
    if measure.higher_is_better:
        return f" ({_signed(end - start)})"
    if measure.result:
        return f" ({measure.result})"
    change = 100 * (end / start - 1) if start > 0 else 0.0
    return f" ({_signed(change)} %)" if abs(change) >= 0.5 else ""


def _signed(change: float) -> str:
    return f"{'+' if change >= 0 else '−'}{_number(abs(change))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
