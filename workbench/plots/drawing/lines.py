"""Lines over an axis: one for each name, with intervals, and a label for its right end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from workbench.plots.drawing.figure import escaped
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
