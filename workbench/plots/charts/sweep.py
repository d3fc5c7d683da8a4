"""How the pace of calls follows one setting: a line for each name over batch sizes, threads or streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.plots.drawing.edge_labels import spread_right
from workbench.plots.drawing.figure import TEXT, axes_or_new, figure_of, plain_log, say, title, wants_log
from workbench.plots.drawing.labels import Label
from workbench.present import style

COLUMNS = ["name", "setting", "per_s", "low_per_s", "high_per_s", "ms"]
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = "os^DvPX"
_PLACES = tuple(style.BACKENDS)[: len(_COLOURS)]
"""A backend has the same colour and mark in every chart."""


def sweep_data(lines: Mapping[str, Mapping[int, Any]]) -> pd.DataFrame:
    """Return a row per name and setting, from the calls of :func:`~workbench.measure.comparison.calls.time_calls`."""
    if not isinstance(lines, Mapping) or not all(
        isinstance(calls, Mapping)
        and all(isinstance(n, int | float | np.number) and hasattr(call, "per_s") for n, call in calls.items())
        for calls in lines.values()
    ):
        raise ConfigError(
            "plot_sweep takes for each name the calls of wb.time_calls by a number, such as "
            f'{{"openvino": {{1: one, 8: eight}}}}; got {given(lines)}.'
        )
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
    lines: Mapping[str, Mapping[int, Any]],
    *,
    setting: str = "Batch size (samples)",
    words: str = "Throughput",
    ax: Axes | None = None,
) -> Figure:
    """Draw samples per second against a setting.

    Parameters
    ----------
    lines
        Name of each line, and for every value of the setting the call that was timed there.
    setting
        What stands at the axis below, with its unit.

    Examples
    --------
    >>> plot_sweep({"openvino": {1: one, 8: eight}})  # doctest: +SKIP
    """
    frame = sweep_data(lines)
    _, target = axes_or_new(ax, 6.4, 3.6)
    if frame.empty:
        say(target, "No call to draw: give at least one line with one setting.")
        return figure_of(target)
    _scales(target, frame)
    title(target, words, "bars: 95 % CI")
    target.set_xlabel(setting, fontsize=TEXT + 0.5, color=style.INK)
    target.set_ylabel("Throughput (samples/s) ↑", fontsize=TEXT + 0.5, color=style.INK)
    labels = []
    for number, (name, line) in enumerate(frame.groupby("name", sort=False)):
        place = _PLACES.index(name) if name in _PLACES else number + len(_PLACES)
        colour, mark = _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]
        target.plot(line["setting"], line["per_s"], color=colour, marker=mark, linewidth=1.6, markersize=5, zorder=4)
        target.vlines(line["setting"], line["low_per_s"], line["high_per_s"], color=colour, linewidth=1.4, zorder=3)
        last = line.iloc[-1]
        labels.append(Label(str(name), last["setting"], last["per_s"], colour=colour, essential=True))
    spread_right(target, labels)
    return figure_of(target)


def _scales(ax: Axes, frame: pd.DataFrame) -> None:
    settings = sorted(set(frame["setting"]))
    if settings[-1] >= 4 * settings[0] > 0:
        ax.set_xscale("log", base=2)
        ax.set_xlim(settings[0] / 1.25, settings[-1] * 1.25)
    ax.xaxis.set_major_locator(FixedLocator(settings))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in settings]))
    ax.xaxis.set_minor_locator(NullLocator())
    low, high = frame["low_per_s"].min(), frame["high_per_s"].max()
    if wants_log(list(frame["per_s"])):
        ax.set_yscale("log")
        ax.set_ylim(low / 1.35, high * 1.35)
        plain_log(ax.yaxis, *ax.get_ylim())
    else:
        ax.set_ylim(0, high * 1.12)
