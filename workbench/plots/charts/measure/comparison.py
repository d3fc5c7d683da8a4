"""Comparisons: two engines by round, the noise floor of the machine, and the settings that tuning measured."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workbench.measure.comparison.compare import Comparison
from workbench.measure.comparison.noise import NoiseFloor
from workbench.plots.drawing.figure import (
    TEXT,
    annotate,
    axes_or_new,
    describe,
    empty_chart,
    escaped,
    fit_axis,
    legend,
    new_figure,
)
from workbench.plots.drawing.frames import attribute_frame, require
from workbench.plots.drawing.marks import DOT, dot_rows, set_rows
from workbench.present import style

_COLORS = (style.GRAY, style.BLUE)
_MARKS = ("o", "s")
_BAND = style.PALE_BAND
_LEGEND_LINE = 28  # letters of both names that fit on one line


def plot_comparison(comparison: Comparison) -> Figure:
    """Draw the latency of both engines by round, and the speedup of each round.

    The vertical bar is the 95 % CI of the speedup of undisturbed calls, noise floor included (the shaded band). Dots
    are the ratios of block medians, disturbed calls included.
    """
    require(isinstance(comparison, Comparison), "plot_comparison", "the result of wb.compare(...)", comparison)
    figure, (left, right) = new_figure(8.6, 3.5, columns=2)
    medians = [np.array([np.median(block) for block in t.blocks]) for t in (comparison.baseline, comparison.candidate)]
    _rounds(left, medians, [comparison.baseline_name, comparison.candidate_name])
    _ratios(right, medians[0] / medians[1], comparison)
    return figure


def plot_noise(noise: NoiseFloor, *, ax: Axes | None = None) -> Figure:
    """Draw the difference of each pair of loads in the A/A test of ``wb.measure_noise()``, with the noise floor."""
    require(isinstance(noise, NoiseFloor), "plot_noise", "the result of wb.measure_noise(...)", noise)
    target = axes_or_new(ax, 6.4, 3.2)
    apart = np.sort([100 * abs(np.expm1(abs(np.log(ratio)))) for ratio in noise.apart])
    pairs = np.arange(1, len(apart) + 1)
    target.vlines(pairs, 0, apart, color=style.FAINT, linewidth=1.2, zorder=2)
    target.plot(pairs, apart, "o", color=_COLORS[1], markersize=4.5, zorder=3)
    floor = 100 * noise.floor
    target.axhline(floor, color=style.BAD, linewidth=1.2, zorder=1)
    at = target.get_yaxis_transform()
    annotate(target, f"noise floor {floor:.2g} %", (0.01, floor), (0, 3), color=style.BAD, coords=at, va="baseline")
    target.set_xlim(0.3, len(apart) + 0.7)
    target.set_ylim(0, max(floor, apart[-1]) * 1.22)
    busy = "; disturbed by other load" if noise.busy else ""
    labels = {"x": "Pairs of loads, sorted by difference", "y": "Difference (% of a call) ↓"}
    return describe(target, "A/A test: one model loaded twice", f"{noise.machine}{busy}", **labels)


def _rounds(ax: Axes, medians: list[np.ndarray], names: list[str]) -> None:
    rounds = np.arange(1, len(medians[0]) + 1)
    ax.vlines(rounds, medians[0], medians[1], color=style.FAINT, linewidth=1.0, zorder=1)
    for name, values, color, mark in zip(names, medians, _COLORS, _MARKS, strict=True):
        ax.plot(rounds, values, mark, color=color, markersize=4.5, zorder=3, label=escaped(name))
    one_line = sum(map(len, names)) <= _LEGEND_LINE
    ax.set_ylim(0, max(values.max() for values in medians) * (1.2 if one_line else 1.32))
    ax.set_xlim(0.3, len(rounds) + 0.7)
    legend(ax, "upper left", ncols=2 if one_line else 1, fontsize=TEXT, handletextpad=0.2, columnspacing=1.2)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    detail = "a block of each in every round, in random order"
    describe(ax, "Interleaved rounds", detail, x="Round", y="Latency (ms/call, median of a block) ↓")


def _ratios(ax: Axes, ratios: np.ndarray, comparison: Comparison) -> None:
    low, high, floor, count = comparison.low, comparison.high, comparison.floor, len(ratios)
    ax.axhspan(1 / (1 + floor), 1 + floor, color=_BAND, zorder=0)
    ax.axhline(1, color=style.MUTED, linewidth=0.8, zorder=1)
    ax.plot(np.arange(1, count + 1), ratios, "o", color=style.FAINT, markersize=4.5, zorder=2)
    place = count + max(1.2, 0.08 * count)  # the interval of all rounds, behind the last one
    ax.vlines(place, low, high, color=_COLORS[1], linewidth=3, zorder=3)
    ax.plot([place], [comparison.ratio], "D", color=_COLORS[1], markersize=6, zorder=4)
    fit_axis(ax, "y", [*ratios, low, high, 1 - floor, 1 + floor], before=0.12)
    ax.set_xlim(0.3, place + max(1.0, 0.06 * count))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ticks = [tick for tick in ax.get_xticks() if 1 <= tick <= count and tick < place - 0.06 * count]
    ax.set_xticks([*ticks, place], [*(f"{tick:g}" for tick in ticks), "all"])
    interval = f"{comparison.ratio:.3f}x (95 % CI {low:.3f}-{high:.3f})"
    detail = f"{interval}; noise floor {100 * floor:.1f} % included"
    title = f"{comparison.candidate_name}: {comparison.verdict}"
    describe(ax, title, detail, x="Round", y=f"Speedup over {comparison.baseline_name} ↑")


_LINE = 64


def tuning_data(result: Any) -> pd.DataFrame:
    """Return a row for each setting that :meth:`engine.tune` measured or skipped, in that order."""
    names = ("ratio", "ratio_low", "ratio_high", "rounds", "reason")
    frame = attribute_frame(
        result.table, {"stage": "stage", "name": "name", "ms": "median_ms", **{name: name for name in names}}
    )
    chosen = (frame["stage"] == "final") & bool(result.changes)
    return frame.assign(chosen=chosen, reason=frame["reason"].fillna(""))


def plot_tuning(result: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the time of each setting of ``engine.tune()`` relative to the default; the chosen one is filled."""
    frame = tuning_data(result)
    # the best so far is measured again with each candidate: its first mark is enough
    again = frame.duplicated("name") & (frame["stage"] != "final")
    frame = frame[frame["ratio"].notna() & ~again]
    if len(frame) < 2:
        return empty_chart(ax, f"Nothing to draw: no setting but the default was measured. {result.verdict}")
    rows = frame.to_dict("records")
    labels = [_label(row) for row in rows]
    width = 4.9 + 0.07 * max(len(line) for label in labels for line in label.splitlines())
    target = axes_or_new(ax, width, 1.5 + 0.42 * len(rows))
    texts = [f"{row['ms']:.3g} ms" for row in rows]
    low, high = frame["ratio_low"].to_list(), frame["ratio_high"].to_list()
    dot_rows(target, frame["ratio"].to_list(), texts, low=low, high=high, looks=[_look(row) for row in rows])
    target.axvline(1.0, color=style.MUTED, linewidth=1.0, zorder=2)
    set_rows(target, labels)
    fit_axis(target, "x", [0.95, 1.05, *low, *high], after=0.3)
    title = f"Settings of {result.backend}, batch {result.batch_size}"
    return describe(target, title, _outcome(result), x="Time relative to the default ↓")


def _outcome(result: Any) -> str:
    if result.decided:
        return f"95 % CI; {'filled green: chosen' if result.changes else 'the default stays'}"
    return textwrap.fill(f"95 % CI; undecided. {result.verdict}", _LINE)


def _look(row: Mapping[Any, Any]) -> dict[str, Any]:
    if row["stage"] == "default":
        return {"color": style.MUTED}
    return {"color": DOT, "markerfacecolor": style.GOOD if row["chosen"] else "white"}


def _label(row: Mapping[Any, Any]) -> str:
    name = str(row["name"]).replace("'", "").replace(", ", "\n")
    return f"{name}\n(measured again)" if row["stage"] == "final" else name
