"""What a comparison rests on: the rounds of both engines, their ratios, and the noise floor of the machine."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.measure.comparison.compare import Comparison
from workbench.measure.comparison.noise import NoiseFloor
from workbench.plots.drawing.figure import TEXT, axes_or_new, figure_of, new_figure, plain, plain_log, title, wants_log
from workbench.present import style

_COLOURS = ("#7F7F7F", "#0072B2")
_MARKS = ("o", "s")
_BAND = "#E8E2D0"
_LEGEND_LINE = 28
"""Letters of both names that fit beside each other."""


def plot_comparison(found: Comparison) -> Figure:
    """Draw a comparison: milliseconds per call round by round, and beside it the ratio of each round.

    The upright bar is the 95 % CI of the ratio of undisturbed calls, which includes the noise floor (the shaded band).
    Dots are the ratios of block medians, disturbed calls included.

    Examples
    --------
    >>> plot_comparison(wb.compare(eager, fast, x))  # doctest: +SKIP
    """
    if not isinstance(found, Comparison):
        raise ConfigError(f"plot_comparison takes what wb.compare returns, got {given(found)}.")
    figure, (left, right) = new_figure(8.6, 3.5, columns=2)
    sides = ((found.baseline_name, found.baseline), (found.candidate_name, found.candidate))
    medians = [np.array([np.median(block) for block in timing.blocks]) for _, timing in sides]
    rounds = np.arange(1, len(medians[0]) + 1)
    _rounds(left, rounds, medians, [name for name, _ in sides])
    _ratios(right, rounds, medians[0] / medians[1], found)
    return figure


def plot_noise(found: NoiseFloor, *, ax: Axes | None = None) -> Figure:
    """Draw how far the pairs of loads were apart that a noise floor was measured with.

    Examples
    --------
    >>> plot_noise(wb.measure_noise())  # doctest: +SKIP
    """
    if not isinstance(found, NoiseFloor):
        raise ConfigError(f"plot_noise takes what wb.measure_noise returns, got {given(found)}.")
    _, target = axes_or_new(ax, 6.4, 3.2)
    apart = np.sort([100 * abs(np.expm1(abs(np.log(ratio)))) for ratio in found.apart])
    pairs = np.arange(1, len(apart) + 1)
    target.vlines(pairs, 0, apart, color=style.FAINT, linewidth=1.2, zorder=2)
    target.plot(pairs, apart, "o", color=_COLOURS[1], markersize=4.5, zorder=3)
    floor = 100 * found.floor
    target.axhline(floor, color=style.BAD, linewidth=1.2, zorder=1)
    target.annotate(
        f"noise floor {floor:.2g} %", (0.01, floor), (0, 3), ("axes fraction", "data"), "offset points",
        fontsize=TEXT, color=style.BAD,
    )  # fmt: skip
    target.set_xlim(0.3, len(apart) + 0.7)
    target.set_ylim(0, max(floor, apart[-1]) * 1.22)
    target.set_xlabel("pairs of loads, the nearest first", fontsize=TEXT + 0.5, color=style.INK)
    target.set_ylabel("apart, % of a call", fontsize=TEXT + 0.5, color=style.INK)
    title(
        target,
        "Two loads of one and the same model",
        f"A-A on {found.machine}{'; other work disturbed it' if found.busy else ''}",
    )
    return figure_of(target)


def _rounds(ax: Axes, rounds: np.ndarray, medians: list[np.ndarray], names: list[str]) -> None:
    ax.vlines(rounds, medians[0], medians[1], color=style.FAINT, linewidth=1.0, zorder=1)
    for name, values, colour, mark in zip(names, medians, _COLOURS, _MARKS, strict=True):
        ax.plot(rounds, values, mark, color=colour, markersize=4.5, zorder=3, label=plain(name))
    beside = sum(map(len, names)) <= _LEGEND_LINE
    top = max(values.max() for values in medians)
    ax.set_ylim(0, top * (1.2 if beside else 1.32))
    ax.set_xlim(0.3, len(rounds) + 0.7)
    ax.legend(
        loc="upper left", ncols=2 if beside else 1, fontsize=TEXT, frameon=False, handletextpad=0.2, columnspacing=1.2
    )
    _count(ax)
    ax.set_ylabel("Latency (ms/call, median of a block) ↓", fontsize=TEXT + 0.5, color=style.INK)
    title(ax, "In turns", "a block of each in every round, in random order")


def _ratios(ax: Axes, rounds: np.ndarray, ratios: np.ndarray, found: Comparison) -> None:
    ax.axhspan(1 / (1 + found.floor), 1 + found.floor, color=_BAND, zorder=0)
    ax.axhline(1, color=style.MUTED, linewidth=0.8, zorder=1)
    ax.plot(rounds, ratios, "o", color=style.FAINT, markersize=4.5, zorder=2)
    place = len(rounds) + max(1.2, 0.08 * len(rounds))
    ax.vlines(place, found.low, found.high, color=_COLOURS[1], linewidth=3, zorder=3)
    ax.plot([place], [found.ratio], "D", color=_COLOURS[1], markersize=6, zorder=4)
    low, high = min(ratios.min(), found.low, 1 - found.floor), max(ratios.max(), found.high, 1 + found.floor)
    if wants_log([low, high]):
        room = (high / low) ** 0.12
        ax.set_yscale("log")
        ax.set_ylim(low / room, high * room)
        plain_log(ax.yaxis, *ax.get_ylim())
    else:
        room = 0.12 * (high - low)
        ax.set_ylim(low - room, high + room)
    ax.set_xlim(0.3, place + max(1.0, 0.06 * len(rounds)))
    _count(ax)
    # the interval is of all rounds together, and stands behind the last one
    counted = [tick for tick in ax.get_xticks() if 1 <= tick <= len(rounds) and tick < place - 0.06 * len(rounds)]
    ax.set_xticks([*counted, place], [*(f"{tick:g}" for tick in counted), "all"])
    ax.set_ylabel(plain(f"Speedup over {found.baseline_name} ↑"), fontsize=TEXT + 0.5, color=style.INK)
    detail = f"{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f}); noise floor {100 * found.floor:.1f} % included"
    title(ax, f"{found.candidate_name}: {found.verdict}", detail)


def _count(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("round", fontsize=TEXT + 0.5, color=style.INK)
