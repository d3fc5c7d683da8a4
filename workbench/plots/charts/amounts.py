"""Amounts side by side: a bar for each name, with a number and its unit at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.plots.drawing.figure import TEXT, axes_or_new, figure_of, name_rows, say, title
from workbench.present import style

_HEIGHT = 0.62
_BLUE = "#56B4E9"
_ROOM = 1.3
"""The axis goes on beyond the longest bar for the words at its end."""


def plot_amounts(
    amounts: Mapping[str, float], *, unit: str, words: str, detail: str = "", ax: Axes | None = None
) -> Figure:
    """Draw a horizontal bar for each amount; the first one is what the others are compared with, and grey.

    Examples
    --------
    >>> plot_amounts({"new arrays": 128.0, "out=": 0.3}, unit="KiB", words="Memory of one call")  # doctest: +SKIP
    """
    for name, amount in amounts.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float | np.number) or not 0 <= amount < math.inf:
            raise ConfigError(f"plot_amounts: {name!r} must be a number of at least 0, got {given(amount)}.")
    _, target = axes_or_new(ax, 6.4, 1.2 + 0.42 * max(1, len(amounts)))
    if not amounts:
        say(target, "No amount to draw: give at least one.")
        return figure_of(target)
    most = max([0.0, *amounts.values()])
    for place, amount in enumerate(amounts.values()):
        draw_bar(target, place, amount, f"{short(amount)} {unit}")
    target.set_yticks(range(len(amounts)), list(amounts), fontsize=TEXT)
    target.set_ylim(len(amounts) - 0.45, -0.55)
    target.set_xlim(0, (most or 1.0) * _ROOM)
    target.set_xlabel(f"Amount ({unit}) ↓", fontsize=TEXT, color=style.INK)
    name_rows(target)
    title(target, words, detail)
    return figure_of(target)


def draw_bar(ax: Axes, place: int, length: float, words: str, *, end: float = 0.0) -> None:
    """Draw one bar, the first of them grey, with words behind it, or behind ``end`` where that is further."""
    ax.barh(place, length, height=_HEIGHT, color=style.FAINT if place == 0 else _BLUE, zorder=3)
    ax.annotate(
        words, (max(length, end), place), (5, 0), textcoords="offset points", va="center", fontsize=TEXT - 0.5,
        color=style.INK,
    )  # fmt: skip


def short(amount: float) -> str:
    """Return three digits of an amount, or all before the point.

    Examples
    --------
    >>> short(2222.2), short(0.12345)
    ('2,222', '0.123')
    """
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
