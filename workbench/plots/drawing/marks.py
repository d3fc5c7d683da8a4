"""Marks of charts: a line for each name, and rows of bars or dots with intervals and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from workbench.plots.drawing.figure import TEXT, annotate, escaped
from workbench.plots.drawing.labels import Label
from workbench.present import style


def lines(
    ax: Axes, frame: pd.DataFrame, x: str, y: str, *, hue: str, low: str = "", high: str = "",
    looks: Mapping[str, Mapping[str, Any]] | None = None, names: Mapping[str, str] | None = None,
) -> list[Label]:  # fmt: skip
    """Draw a line for each value of the column ``hue``, in order of appearance, with intervals as bars.

    ``looks`` are line options by name (default: the palette), ``names`` other names for the legend. Returns a label
    for the right end of each line.
    """
    labels = []
    for number, (key, part) in enumerate(frame.groupby(hue, sort=False)):
        name = str(key)
        look = dict(style.series(number) if looks is None else looks[name])
        drawn = {"linewidth": 1.6, "markersize": 5.5, "zorder": 4, "label": escaped((names or {}).get(name, name))}
        ax.plot(part[x], part[y], **{**drawn, **look})
        if low:
            ax.vlines(part[x], part[low], part[high], color=look["color"], linewidth=1.3, zorder=3)
        last = part.iloc[int(np.argmax(part[x]))]
        labels.append(Label(name, float(last[x]), float(last[y]), color=look["color"], essential=True))
    return labels


def shades(names: Sequence[str], *, markers: bool = False) -> dict[str, dict[str, Any]]:
    """Return line options for an ordered series of many names: from dark to light."""
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.linspace(0.0, 0.88, max(1, len(names))))
    marks = [{"marker": style.MARKERS[i % len(style.MARKERS)]} if markers else {} for i in range(len(names))]
    return {name: {"color": color, **mark} for name, color, mark in zip(names, colors, marks, strict=True)}


HEIGHT = 0.62
BAR = style.PALETTE[5]
DOT = style.PALETTE[0]


def set_rows(ax: Axes, names: Sequence[str], *, shown: bool | None = None, step: int = 1) -> None:
    """Name the rows on the y axis, first row on top; ``shown`` False hides the names, ``step`` skips some."""
    ax.set_yticks(range(0, len(names), step), [escaped(name) for name in names[::step]], fontsize=TEXT)
    ax.set_ylim(len(names) - 0.4, -0.6)
    plain_rows(ax, shown=shown)


def plain_rows(ax: Axes, *, shown: bool | None = None) -> None:
    """Remove grid lines and ticks of the y axis; ``shown`` decides about its labels."""
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    if shown is not None:
        ax.tick_params(axis="y", labelleft=shown)


def bar_rows(
    ax: Axes, values: Sequence[float], texts: Sequence[str] = (), *, low: Sequence[float] = (),
    high: Sequence[float] = (), looks: Sequence[Mapping[str, Any]] = (), room: float = 1.3,
) -> None:  # fmt: skip
    """Draw a bar in each row, the first one gray; the text follows the bar or its interval.

    ``room`` is the x axis over the longest bar, so that the texts fit.
    """
    ends = np.fmax(values, high) if len(high) else np.asarray(values, dtype=float)
    for place, value in enumerate(values):
        look = looks[place] if looks else {"color": style.FAINT if place == 0 else BAR}
        ax.barh(place, value, **{"height": HEIGHT, "zorder": 3, **look})
        if len(low):
            ax.hlines(place, low[place], high[place], color=style.INK, linewidth=1.6, zorder=4)
        if texts:
            annotate(ax, texts[place], (max(0.0, float(ends[place])), place))
    ax.set_xlim(min(0.0, 1.1 * float(np.nanmin(values))), (float(np.nanmax(ends)) or 1.0) * room)


def dot_rows(
    ax: Axes, values: Sequence[float], texts: Sequence[str] = (), *, low: Sequence[float] = (),
    high: Sequence[float] = (), looks: Sequence[Mapping[str, Any]] = (), bar: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Draw a dot in each row, its interval as a line, and its text behind both; a value that is not finite has none."""
    for place, value in enumerate(values):
        if not np.isfinite(value):
            continue
        look = {"color": DOT, "marker": "o", "markersize": 6.5, **(looks[place] if looks else {})}
        if len(low):
            line = {"color": look["color"], "linewidth": 2.0, "zorder": 3, **(bar or {})}
            ax.hlines(place, low[place], high[place], **line)
        ax.plot([value], [place], linestyle="none", zorder=4, **look)
        if texts:
            end = max(value, high[place]) if len(high) else value
            halo = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}  # over reference lines
            annotate(ax, texts[place], (end, place), (7, 0), zorder=5, bbox=halo)


def column_text(ax: Axes, place: float, text: str, color: str = style.INK) -> None:
    """Write the text of a row at the right of the axes, clear of its marks."""
    annotate(ax, text, (1.0, place), (7, 0), color=color, coords=ax.get_yaxis_transform())
