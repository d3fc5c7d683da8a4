"""Amounts as bars: one for each name, with a number and its unit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.core.format.numbers import short
from workbench.plots.drawing.figure import axes_or_new, empty_chart, figure_of, set_labels, set_title
from workbench.plots.drawing.rows import bar_rows, set_rows


def plot_bars(
    amounts: Mapping[str, float], *, unit: str, title: str, detail: str = "", ax: Axes | None = None
) -> Figure:
    """Draw a horizontal bar for each amount; the first one is the reference and gray.

    Examples
    --------
    >>> plot_bars({"new arrays": 128.0, "out=": 0.3}, unit="KiB", title="Memory of one call")  # doctest: +SKIP
    """
    for name, amount in amounts.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float | np.number) or not 0 <= amount < math.inf:
            raise ConfigError(f"plot_bars: {name!r} must be a number of at least 0, got {given(amount)}.")
    if not amounts:
        return empty_chart(ax, "No amount to draw: give at least one.")
    target = axes_or_new(ax, 6.4, 1.2 + 0.42 * len(amounts))
    bar_rows(target, list(amounts.values()), [f"{short(amount)} {unit}" for amount in amounts.values()])
    set_rows(target, list(amounts))
    set_labels(target, f"Amount ({unit}) ↓")
    set_title(target, title, detail)
    return figure_of(target)
