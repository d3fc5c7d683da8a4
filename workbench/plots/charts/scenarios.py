"""MLPerf's loads on an engine: the scenarios side by side, and the search for the highest rate of arrivals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.plots.charts.amounts import short
from workbench.plots.drawing.edge_labels import LineWords, place_on_lines
from workbench.plots.drawing.figure import (
    TEXT,
    axes_or_new,
    figure_of,
    name_rows,
    new_figure,
    plain_log,
    say,
    title,
    wants_log,
)
from workbench.plots.drawing.labels import Label, Obstacles, place_labels
from workbench.present import style

COLUMNS = ["scenario", "backend", "valid", "samples_per_s", "p50_ms", "p90_ms", "p99_ms", "bound_ms", "words"]
PROBE_COLUMNS = ["per_s", "held", "latency_ms", "completed_per_s", "reason"]


@dataclass(frozen=True)
class _Look:
    """How a percentile is drawn."""

    column: str
    name: str
    marker: str
    colour: str
    size: float

    @property
    def marks(self) -> dict[str, Any]:
        edge = {"markeredgecolor": style.INK, "markeredgewidth": 0.6}
        return {"marker": self.marker, "color": self.colour, "markersize": self.size, **edge}


_PERCENTILES = (
    _Look("p50_ms", "p50", "o", "#0072B2", 5.0),
    _Look("p90_ms", "p90", "s", "#56B4E9", 8.5),
    _Look("p99_ms", "p99", "D", "#E69F00", 8.0),
)
"""Smaller marks are drawn over larger ones: near one another, all can be seen."""
_BAR: dict[str, Any] = {"height": 0.56, "color": "#56B4E9", "zorder": 3}
_NOT_VALID: dict[str, Any] = {"facecolor": "white", "edgecolor": style.BAD, "hatch": "////", "linewidth": 0.8}


def scenario_data(results: Sequence[Any]) -> pd.DataFrame:
    """Return a row for each result of :func:`workbench.run_scenario`; what is unknown is NaN."""
    if not isinstance(results, list | tuple) or not all(hasattr(result, "latency_ms_target") for result in results):
        raise ConfigError(
            "plot_scenarios takes a list of what wb.run_scenario gave, such as [single, offline]; "
            f"got {given(results)}."
        )
    rows = [
        {
            "scenario": result.scenario,
            "backend": result.backend,
            "valid": result.valid,
            "samples_per_s": result.samples_per_s,
            "p50_ms": result.latency_ms_p50,
            "p90_ms": result.latency_ms_p90,
            "p99_ms": result.latency_ms_p99,
            "bound_ms": result.latency_bound_ms,
            "words": _words(result),
        }
        for result in results
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for column in ("p50_ms", "p90_ms", "p99_ms", "bound_ms"):
        frame[column] = pd.to_numeric(frame[column]).astype(float)
    return frame


def _words(result: Any) -> str:
    return {
        "single-stream": "one row after the other",
        "multi-stream": f"{result.samples_per_query} rows in each call",
        "offline": "all rows at once",
        "server": f"{short(result.target_per_s or 0)} rows per s (Poisson)",
    }.get(result.scenario, "")


def plot_scenarios(results: Sequence[Any], *, words: str = "MLPerf's scenarios, by LoadGen") -> Figure:
    """Draw the result of each scenario: samples per second, and percentiles of the latency.

    A hatched bar is a test that LoadGen does not call valid. A percentile that the queries do not resolve is left out.

    Examples
    --------
    >>> plot_scenarios([wb.run_scenario(engine, task, scenario=s) for s in ("single-stream", "offline")])
    """
    frame = scenario_data(results)
    if frame.empty:
        figure, (target,) = new_figure(7.0, 2.6)
        say(target, "No scenario to draw: give at least one result of wb.run_scenario.")
        return figure
    figure, (left, right) = new_figure(10.2, 1.5 + 0.56 * len(frame), columns=2)
    _throughput(left, frame)
    _latency(right, frame)
    detail = "" if frame["valid"].all() else "hatched: not valid, says LoadGen"
    title(left, words, detail or "throughput")
    title(right, "", "latency of one query")
    return figure


def _throughput(ax: Axes, frame: pd.DataFrame) -> None:
    several = frame["backend"].nunique() > 1
    names = []
    for place, row in enumerate(frame.to_dict("records")):
        ax.barh(place, row["samples_per_s"], **(_BAR if row["valid"] else _BAR | _NOT_VALID))
        ax.annotate(short(row["samples_per_s"]), (row["samples_per_s"], place), (5, 0), textcoords="offset points",
                    va="center", fontsize=TEXT - 0.5, color=style.INK)  # fmt: skip
        names.append(f"{row['scenario']}{' on ' + row['backend'] if several else ''}\n{row['words']}")
    ax.set_yticks(range(len(frame)), names, fontsize=TEXT)
    ax.set_ylim(len(frame) - 0.45, -0.55)
    ax.set_xlim(0, frame["samples_per_s"].max() * 1.22)
    ax.set_xlabel("Throughput (samples/s) ↑", fontsize=TEXT + 0.5, color=style.INK)
    name_rows(ax)


def _latency(ax: Axes, frame: pd.DataFrame) -> None:
    columns = [look.column for look in _PERCENTILES]
    values = frame[[*columns, "bound_ms"]].to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    if known.size == 0:
        say(ax, "No latency to draw: Offline has none, and the queries of the others were too few.", width=40)
        return
    _latency_scale(ax, known)
    for place, row in enumerate(frame.to_dict("records")):
        found = [(row[look.column], look) for look in _PERCENTILES if math.isfinite(row[look.column])]
        if math.isfinite(row["bound_ms"]):
            _bound(ax, place, row["bound_ms"])
        if not found:
            none = "all wait in one line:\nno latency of one" if row["scenario"] == "offline" else "too few queries"
            _behind(ax, place, none, style.MUTED)
            continue
        ax.hlines(place, found[0][0], found[-1][0], color=style.MUTED, linewidth=1.4, zorder=3)
        for ms, look in reversed(found):
            ax.plot(ms, place, zorder=5, **look.marks)
        _behind(ax, place, " / ".join(short(ms) for ms, _ in found) + " ms", style.INK)
    ax.set_ylim(len(frame) - 0.45, -0.55)
    ax.set_xlabel("Latency (ms) ↓", fontsize=TEXT + 0.5, color=style.INK)
    name_rows(ax, shown=False)
    _key(ax)


def _latency_scale(ax: Axes, known: Any) -> None:
    low, high = float(known.min()), float(known.max())
    if wants_log(list(known)):
        ax.set_xscale("log")
        ax.set_xlim(low / 1.3, high * 1.3)
        plain_log(ax.xaxis, low / 1.3, high * 1.3)
    else:
        ax.set_xlim(0, high * 1.15)


def _bound(ax: Axes, place: float, ms: float) -> None:
    ax.vlines(ms, place - 0.3, place + 0.3, color=style.BAD, linewidth=2, zorder=4)
    ax.annotate(f"bound {short(ms)} ms", (ms, place - 0.3), (0, 2), textcoords="offset points", ha="right", va="bottom",
                fontsize=TEXT - 0.5, color=style.BAD)  # fmt: skip


def _behind(ax: Axes, place: float, words: str, colour: str) -> None:
    """Write words in a column right of the axes, where no mark can be."""
    ax.annotate(words, (1, place), (8, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="center",
                fontsize=TEXT - 0.5, color=colour)  # fmt: skip


def _key(ax: Axes) -> None:
    handles = [Line2D([], [], linestyle="none", label=look.name, **look.marks) for look in _PERCENTILES]
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.99), "borderaxespad": 0.0}
    ax.legend(handles=handles, ncols=3, frameon=False, fontsize=TEXT, handletextpad=0.1, columnspacing=0.9, **place)


def server_rate_data(rate: Any) -> pd.DataFrame:
    """Return a row for each rate that :func:`workbench.find_server_rate` tried, in order; what is unknown is NaN."""
    if not hasattr(rate, "probes") or not hasattr(rate, "latency_bound_ms"):
        raise ConfigError(f"plot_server_rate takes what wb.find_server_rate gave, got {given(rate)}.")
    rows = [
        {
            "per_s": probe.per_s,
            "held": probe.held,
            "latency_ms": probe.result.latency_ms_target,
            "completed_per_s": probe.result.samples_per_s,
            "reason": probe.reason,
        }
        for probe in rate.probes
    ]
    frame = pd.DataFrame(rows, columns=PROBE_COLUMNS)
    frame["latency_ms"] = pd.to_numeric(frame["latency_ms"]).astype(float)
    return frame


def plot_server_rate(rate: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the latency at the percentile that counts against the rate of arrivals, for every rate that was tried.

    A test with too few queries to tell the latency stands at the upper edge.

    Examples
    --------
    >>> plot_server_rate(wb.find_server_rate(engine, task, latency_bound_ms=20))  # doctest: +SKIP
    """
    frame = server_rate_data(rate)
    _, target = axes_or_new(ax, 7.0, 4.0)
    if frame.empty:
        say(target, f"No rate was tried: {rate.ended}.")
        return figure_of(target)
    _rate_scales(target, frame, rate.latency_bound_ms)
    words = f"{'No' if rate.per_s is None else 'Highest'} rate within the latency bound"
    title(
        target, words, f"{rate.offline.backend}, Poisson arrivals (Offline: {short(rate.offline.samples_per_s)} per s)"
    )
    target.set_xlabel("Arrival rate (rows/s)", fontsize=TEXT + 0.5, color=style.INK)
    name = f"p{100 * rate.percentile:g}"
    target.set_ylabel(f"{name} of the latency (ms) ↓", fontsize=TEXT + 0.5, color=style.INK)
    points = frame.assign(latency_ms=frame["latency_ms"].fillna(target.get_ylim()[1]))
    labels = []
    looks = ((True, "o", style.GOOD, "valid, says LoadGen"), (False, "X", style.BAD, "not valid"))
    for held, mark, colour, words in looks:
        some = points[points["held"] == held]
        if len(some):
            target.plot(some["per_s"], some["latency_ms"], mark, color=colour, markersize=7.5, zorder=5, clip_on=False)
            first = some.iloc[some["per_s"].argmin() if held else some["per_s"].argmax()]
            labels.append(Label(words, first["per_s"], first["latency_ms"], essential=True, colour=colour))
    _bound_and_rate(target, rate, labels, list(zip(points["per_s"], points["latency_ms"], strict=True)))
    return figure_of(target)


def _rate_scales(ax: Axes, frame: pd.DataFrame, bound: float) -> None:
    rates = list(frame["per_s"])
    low, high = min(rates), max(rates)
    if wants_log(rates):
        ax.set_xscale("log")
        ax.set_xlim(low / 1.25, high * 1.25)
        plain_log(ax.xaxis, low / 1.25, high * 1.25)
    else:
        room = 0.1 * (high - low) or 0.2 * high
        ax.set_xlim(max(0.0, low - room), high + room)
    latencies = [*frame["latency_ms"].dropna(), bound]
    if wants_log(latencies):
        ax.set_yscale("log")
        ax.set_ylim(min(latencies) / 1.8, max(latencies) * 1.6)
        plain_log(ax.yaxis, *ax.get_ylim())
    else:
        ax.set_ylim(0, max(latencies) * 1.25)


def _bound_and_rate(ax: Axes, rate: Any, labels: list[Label], points: list[tuple[float, float]]) -> None:
    """Draw the bound, the rate that was found, and all words where no mark is."""
    bound = rate.latency_bound_ms
    ax.axhline(bound, color=style.INK, linewidth=1.1, linestyle="--", zorder=3)
    if rate.per_s is not None:
        ax.axvline(rate.per_s, color=style.GOOD, linewidth=1.3, zorder=2)
        if rate.failed_per_s is not None:
            ax.axvspan(rate.per_s, rate.failed_per_s, color=style.FAINT, alpha=0.45, linewidth=0, zorder=1)
        found = Label(f"{short(rate.per_s)} per s hold", rate.per_s, ax.get_ylim()[0], bold=True, essential=True)
        labels.insert(0, found)
    figure_of(ax).draw_without_rendering()
    said = place_on_lines(
        ax, [LineWords(f"bound {bound:g} ms", bound, style.INK, above=True)], Obstacles(points=points)
    )
    line = [(x, bound) for x in ax.get_xlim()]
    place_labels(ax, labels, Obstacles(points=points, lines=line, texts=said))
