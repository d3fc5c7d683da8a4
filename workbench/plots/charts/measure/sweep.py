"""Throughput over one setting: a line for each name over batch sizes, threads or streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.plots.drawing.edge_labels import spread_right
from workbench.plots.drawing.figure import (
    axes_or_new,
    empty_chart,
    figure_of,
    fit_axis,
    set_labels,
    set_title,
    settings_axis,
)
from workbench.plots.drawing.frames import require
from workbench.plots.drawing.lines import lines as draw_lines
from workbench.present import style

COLUMNS = ["name", "setting", "per_s", "low_per_s", "high_per_s", "ms"]
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
    return pd.DataFrame(rows, columns=COLUMNS)


def plot_sweep(
    lines: Mapping[str, Mapping[int, Any]], *, setting: str = "Batch size (samples)", title: str = "Throughput",
    ax: Axes | None = None,
) -> Figure:  # fmt: skip
    """Draw samples per second over a setting, with 95 % CIs.

    Parameters
    ----------
    lines
        For each name, the timed call of each value of the setting.
    setting
        The label of the x axis, with its unit.

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
    set_title(target, title, "bars: 95 % CI")
    set_labels(target, setting, "Throughput (samples/s) ↑")
    names = list(dict.fromkeys(frame["name"]))
    places = [_PLACES.index(name) if name in _PLACES else number + len(_PLACES) for number, name in enumerate(names)]
    looks = {name: style.series(place) for name, place in zip(names, places, strict=True)}
    labels = draw_lines(target, frame, "setting", "per_s", hue="name", low="low_per_s", high="high_per_s", looks=looks)
    spread_right(target, labels)
    return figure_of(target)
