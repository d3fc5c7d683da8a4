"""Times of calls as bars, in panels with a scale of their own."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.format.numbers import short
from workbench.plots.drawing.figure import empty_chart, figure_of, new_figure, set_labels, set_title, style_axes
from workbench.plots.drawing.frames import attribute_frame, require
from workbench.plots.drawing.rows import bar_rows, set_rows

COLUMNS = ["name", "ms", "low_ms", "high_ms", "per_s", "ratio", "ratio_low", "ratio_high"]
_ROOM = 2.05
_WRAP = 26


def calls_data(groups: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return a row for each call of each group of :func:`workbench.time_calls`."""
    fits = isinstance(groups, Mapping) and all(
        isinstance(calls, list | tuple) and all(hasattr(call, "ratio_low") for call in calls)
        for calls in groups.values()
    )
    source = 'titles and the calls of wb.time_calls, such as {"batch 1": wb.time_calls(calls)}'
    require(fits, "plot_calls", source, groups)
    frame = attribute_frame([call for calls in groups.values() for call in calls], {name: name for name in COLUMNS})
    frame.insert(0, "group", [group for group, calls in groups.items() for _ in calls])
    return frame


def plot_calls(
    groups: Mapping[str, Sequence[Any]], *, title: str = "Time per call", per: str = "call", ax: Axes | None = None
) -> Figure:
    """Draw the time of each call with its 95 % CI and its speedup over the first call of its panel.

    The speedup is that of :func:`workbench.timing.pace.pace_ratio`: it is corrected for drift between rounds, and
    can therefore differ from the ratio of the two medians.

    Parameters
    ----------
    groups
        Title of each panel and its calls, which were timed interleaved.
    title
        The title of the figure.
    per
        The work of one call, for the axis: ``"64 samples"``.
    ax
        Draw only the first group, here.

    Examples
    --------
    >>> plot_calls({"batch 1": wb.time_calls(calls)})  # doctest: +SKIP
    """
    frame = calls_data(groups)
    if frame.empty:
        return empty_chart(ax, "No call to draw: give at least one group with one call.")
    parts = {str(name): part for name, part in frame.groupby("group", sort=False)}
    longest = min(_WRAP, max(map(len, frame["name"])))
    if ax is not None:
        parts = dict([*parts.items()][:1])
        axes = [style_axes(ax)]
    else:
        height = 1.4 + 0.42 * max(map(len, parts.values()))
        axes = new_figure(1.4 + 0.08 * longest + 4.2 * len(parts), height, columns=len(parts))[1]
    first = list(next(iter(parts.values()))["name"])
    for number, (target, (name, part)) in enumerate(zip(axes, parts.items(), strict=True)):
        _panel(target, part, per)
        names = [textwrap.fill(one, _WRAP) for one in part["name"]]
        set_rows(target, names, shown=number == 0 or list(part["name"]) != first)
        set_title(target, title if number == 0 else "", f"{name}; lines and brackets: 95 % CI" if number == 0 else name)
    return figure_of(axes[0])


def _panel(ax: Axes, frame: pd.DataFrame, per: str) -> None:
    texts = [
        f"{short(row['ms'])} ms" + (f"  {row['ratio']:.2f}x ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})" * (i > 0))
        for i, row in enumerate(frame.to_dict("records"))
    ]
    low, high = frame["low_ms"].to_list(), frame["high_ms"].to_list()
    bar_rows(ax, frame["ms"].to_list(), texts, low=low, high=high, room=_ROOM)
    set_labels(ax, f"Time (ms/{per}) ↓\nx: speedup over the first, same rounds")
