"""Times of calls as bars and as lines over a setting; amounts as bars."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.core.format.numbers import short
from workbench.plots.drawing.figure import (
    axes_or_new,
    describe,
    empty_chart,
    figure_of,
    fit_axis,
    new_figure,
    settings_axis,
    style_axes,
)
from workbench.plots.drawing.frames import attribute_frame, require
from workbench.plots.drawing.labels import spread_right
from workbench.plots.drawing.marks import bar_rows, lines as draw_lines, set_rows
from workbench.present import style

_CALL = ("name", "ms", "low_ms", "high_ms", "per_s", "ratio", "ratio_low", "ratio_high")
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
    frame = attribute_frame([call for calls in groups.values() for call in calls], {name: name for name in _CALL})
    frame.insert(0, "group", [group for group, calls in groups.items() for _ in calls])
    return frame


def plot_calls(
    groups: Mapping[str, Sequence[Any]], *, title: str = "Time per call", per: str = "call", ax: Axes | None = None
) -> Figure:
    """Draw the time of each call with its 95 % CI and its speedup over the first call of its panel.

    The speedup is that of :func:`workbench.timing.pace.pace_ratio`: it is corrected for drift between rounds, and
    can therefore differ from the ratio of the two medians. ``groups`` are the title of each panel and its calls, which
    were timed interleaved; ``per`` is the work of one call, for the axis: ``"64 samples"``. ``ax`` gets the first group
    alone.

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
        describe(target, title if number == 0 else "", f"{name}; lines and brackets: 95 % CI" if number == 0 else name)
    return figure_of(axes[0])


def _panel(ax: Axes, frame: pd.DataFrame, per: str) -> None:
    texts = [
        f"{short(row['ms'])} ms" + (f"  {row['ratio']:.2f}x ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})" * (i > 0))
        for i, row in enumerate(frame.to_dict("records"))
    ]
    low, high = frame["low_ms"].to_list(), frame["high_ms"].to_list()
    bar_rows(ax, frame["ms"].to_list(), texts, low=low, high=high, room=_ROOM)
    describe(ax, x=f"Time (ms/{per}) ↓\nx: speedup over the first call, from the same rounds")


_PLACES = tuple(style.BACKENDS)[: len(style.PALETTE)]
"""A backend has the same color and marker in every chart of this kind."""


def sweep_data(lines: Mapping[str, Mapping[int, Any]]) -> pd.DataFrame:
    """Return a row per name and setting, from calls of :func:`workbench.time_calls`."""
    fits = isinstance(lines, Mapping) and all(
        isinstance(calls, Mapping)
        and all(isinstance(n, int | float | np.number) and hasattr(call, "per_s") for n, call in calls.items())
        for calls in lines.values()
    )
    source = 'for each name the calls of wb.time_calls by a number, such as {"openvino": {1: one, 8: eight}}'
    require(fits, "plot_sweep", source, lines)
    rows = [
        {
            "name": name,
            "setting": setting,
            "per_s": call.per_s,
            "low_per_s": call.per_s * call.ms / call.high_ms,
            "high_per_s": call.per_s * call.ms / call.low_ms,
            "ms": call.ms,
        }
        for name, calls in lines.items()
        for setting, call in sorted(calls.items())
    ]
    return pd.DataFrame(rows, columns=["name", "setting", "per_s", "low_per_s", "high_per_s", "ms"])


def plot_sweep(
    lines: Mapping[str, Mapping[int, Any]], *, setting: str = "Batch size (samples)", title: str = "Throughput",
    ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """Draw samples per second over a setting, with 95 % CIs.

    ``lines`` are, for each name, the timed call of each value; ``setting`` is the label of the x axis, with its unit.

    Examples
    --------
    >>> plot_sweep({"openvino": {1: one, 8: eight}})  # doctest: +SKIP
    """
    frame = sweep_data(lines)
    if frame.empty:
        return empty_chart(ax, "No call to draw: give at least one line with one setting.")
    target = axes_or_new(ax, 6.4, 3.6)
    settings_axis(target, sorted(set(frame["setting"])))
    fit_axis(target, "y", [*frame["per_s"], *frame["low_per_s"], *frame["high_per_s"]], zero=True)
    figure = describe(target, title, "bars: 95 % CI", x=setting, y="Throughput (samples/s) ↑")
    names = list(dict.fromkeys(frame["name"]))
    places = [_PLACES.index(name) if name in _PLACES else number + len(_PLACES) for number, name in enumerate(names)]
    looks = {name: style.series(place) for name, place in zip(names, places, strict=True)}
    labels = draw_lines(target, frame, "setting", "per_s", hue="name", low="low_per_s", high="high_per_s", looks=looks)
    spread_right(target, labels)
    return figure


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
    return describe(target, title, detail, x=f"Amount ({unit}) ↓")
