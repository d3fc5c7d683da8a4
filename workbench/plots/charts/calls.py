"""Calls timed side by side: a bar for each, in panels with a scale of their own."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.plots.charts.amounts import draw_bar, short
from workbench.plots.drawing.figure import TEXT, dress, figure_of, name_rows, new_figure, plain, say, title
from workbench.present import style

COLUMNS = ["group", "name", "ms", "low_ms", "high_ms", "per_s", "ratio", "ratio_low", "ratio_high"]
_ROOM = 2.05
"""The axis goes on beyond the longest bar for the words at its end."""
_WRAP = 26


def calls_data(groups: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return a row for each call of each group, as :func:`workbench.measure.comparison.calls.time_calls` gave them."""
    if not isinstance(groups, Mapping) or not all(
        isinstance(calls, list | tuple) and all(hasattr(call, "ratio_low") for call in calls)
        for calls in groups.values()
    ):
        raise ConfigError(
            'plot_calls takes titles and the calls that wb.time_calls gave, such as {"batch 1": wb.time_calls(calls)}; '
            f"got {given(groups)}."
        )
    rows = [
        {"group": group, **{column: getattr(call, column) for column in COLUMNS[1:]}}
        for group, calls in groups.items()
        for call in calls
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def plot_calls(
    groups: Mapping[str, Sequence[Any]],
    *,
    words: str = "Time of one call",
    per: str = "call",
    ax: Axes | None = None,
) -> Figure:
    """Draw the time of each call with its 95 % CI and its speedup over the first.

    The speedup is that of :func:`workbench.timing.pace.pace_ratio`: if the machine's own pace changes between rounds,
    it differs from the ratio of the two medians, and is the one to trust.

    Parameters
    ----------
    groups
        What to draw in each panel: its title, and the calls that were timed side by side. The first of a panel is what
        the ratios are taken against.
    words
        The title of the whole.
    per
        What one call does, for the axis: ``"64 samples"``.
    ax
        Draw the first group alone here.

    Raises
    ------
    ConfigError
        If ``groups`` is no mapping of titles to calls.

    Examples
    --------
    >>> plot_calls({"batch 1": wb.time_calls(calls)})  # doctest: +SKIP
    """
    frame = calls_data(groups)
    if frame.empty:
        target = new_figure(7.0, 2.6)[1][0] if ax is None else ax
        say(target, "No call to draw: give at least one group with one call.")
        return figure_of(target)
    names = list(groups)[:1] if ax is not None else [name for name in groups if len(groups[name])]
    most = max(len(groups[name]) for name in names)
    longest = min(_WRAP, max(map(len, frame["name"])))
    axes = (
        [dress(ax)]
        if ax is not None
        else new_figure(1.4 + 0.08 * longest + 4.2 * len(names), 1.4 + 0.42 * most, columns=len(names))[1]
    )
    for number, (target, name) in enumerate(zip(axes, names, strict=True)):
        rows = frame[frame["group"] == name]
        same = number > 0 and list(rows["name"]) == list(frame.loc[frame["group"] == names[0], "name"])
        _panel(target, rows, named=not same, per=per)
        detail = f"{name}; lines and brackets: 95 % CI" if number == 0 else name
        title(target, words if number == 0 else "", detail)
    return figure_of(axes[0])


def _panel(ax: Axes, frame: pd.DataFrame, *, named: bool, per: str) -> None:
    for place, row in enumerate(frame.to_dict("records")):
        ax.hlines(place, row["low_ms"], row["high_ms"], color=style.INK, linewidth=1.6, zorder=4)
        pace = f"  {row['ratio']:.2f}x ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
        draw_bar(ax, place, row["ms"], f"{short(row['ms'])} ms" + ("" if place == 0 else pace), end=row["high_ms"])
    ax.set_yticks(range(len(frame)), [plain(textwrap.fill(name, _WRAP)) for name in frame["name"]], fontsize=TEXT)
    ax.set_ylim(len(frame) - 0.45, -0.55)
    ax.set_xlim(0, max(frame["high_ms"].max(), frame["ms"].max()) * _ROOM)
    ax.set_xlabel(f"Time (ms/{per}) ↓\nx: speedup over the first, same rounds", fontsize=TEXT)
    name_rows(ax, shown=named)
