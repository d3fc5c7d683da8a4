"""LoadGen results: the scenarios, and the search for the highest arrival rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workbench.core.format.numbers import short
from workbench.plots.drawing.figure import (
    TEXT,
    annotate,
    axes_or_new,
    describe,
    empty_chart,
    figure_of,
    fit_axis,
    legend,
    new_figure,
    show_message,
)
from workbench.plots.drawing.frames import attribute_frame, require
from workbench.plots.drawing.labels import Label, LineLabel, Obstacles, place_labels, place_on_lines
from workbench.plots.drawing.marks import BAR, bar_rows, column_text, set_rows
from workbench.present import style

_EDGE: dict[str, Any] = {"markeredgecolor": style.INK, "markeredgewidth": 0.6, "linestyle": "none"}
_PERCENTILES: dict[str, dict[str, Any]] = {
    "p50": {"marker": "o", "color": style.BLUE, "markersize": 5.0, **_EDGE},
    "p90": {"marker": "s", "color": style.SKY, "markersize": 8.5, **_EDGE},
    "p99": {"marker": "D", "color": style.ORANGE, "markersize": 8.0, **_EDGE},
}
"""Looks of the percentiles. Smaller marks are drawn over larger ones, so that all are visible."""
_VALID: dict[str, Any] = {"height": 0.56, "color": BAR}
_INVALID: dict[str, Any] = {
    "height": 0.56, "facecolor": "white", "edgecolor": style.BAD, "hatch": "////", "linewidth": 0.8,
}  # fmt: skip


def scenario_data(results: Sequence[Any]) -> pd.DataFrame:
    """Return a row for each result of :func:`workbench.run_scenario`; unknown figures are NaN."""
    fits = isinstance(results, list | tuple) and all(hasattr(result, "latency_ms_target") for result in results)
    require(fits, "plot_scenarios", "a list of results of wb.run_scenario, such as [one, two]", results)
    latencies = {f"{name}_ms": f"latency_ms_{name}" for name in _PERCENTILES} | {"bound_ms": "latency_bound_ms"}
    names = ("scenario", "backend", "valid", "samples_per_s")
    frame = attribute_frame(results, {**{name: name for name in names}, **latencies})
    return frame.assign(load=[_load(result) for result in results]).astype(dict.fromkeys(latencies, float))


def _load(result: Any) -> str:
    return {
        "single-stream": "one sample per query, in sequence",
        "multi-stream": f"{result.samples_per_query} samples per query",
        "offline": "all samples in one query",
        "server": f"{short(result.target_per_s or 0)} queries/s (Poisson)",
    }.get(result.scenario, "")


def plot_scenarios(results: Sequence[Any], *, title: str = "MLPerf LoadGen scenarios") -> Figure:
    """Draw throughput and latency percentiles of each scenario.

    A hatched bar is a test that LoadGen declares invalid. A percentile that the queries do not resolve is left out.
    """
    frame = scenario_data(results)
    if frame.empty:
        return empty_chart(None, "No scenario to draw: give at least one result of wb.run_scenario.")
    figure, (left, right) = new_figure(10.2, 1.5 + 0.56 * len(frame), columns=2)
    several = frame["backend"].nunique() > 1
    rows = frame.to_dict("records")
    names = [f"{r['scenario']}{' on ' + r['backend'] if several else ''}\n{r['load']}" for r in rows]
    values = frame["samples_per_s"].to_list()
    looks = [_VALID if valid else _INVALID for valid in frame["valid"]]
    bar_rows(left, values, [short(value) for value in values], looks=looks, room=1.22)
    set_rows(left, names)
    detail = "throughput" if frame["valid"].all() else "hatched: not valid (LoadGen)"
    describe(left, title, detail, x="Throughput (samples/s) ↑")
    _latency(right, frame)
    describe(right, "", "latency of one query")
    return figure


def _latency(ax: Axes, frame: pd.DataFrame) -> None:
    values = frame[[*(f"{name}_ms" for name in _PERCENTILES), "bound_ms"]].to_numpy(dtype=float)
    if not np.isfinite(values).any():
        show_message(ax, "No latency to draw: Offline has none, and the others had too few queries.", width=40)
        return
    for place, row in enumerate(frame.to_dict("records")):
        resolved = {name: row[f"{name}_ms"] for name in _PERCENTILES if np.isfinite(row[f"{name}_ms"])}
        bound = row["bound_ms"]
        if np.isfinite(bound):
            ax.vlines(bound, place - 0.3, place + 0.3, color=style.BAD, linewidth=2, zorder=4)
            label = f"bound {short(bound)} ms"
            annotate(ax, label, (bound, place - 0.3), (0, 2), ha="right", va="bottom", color=style.BAD)
        if not resolved:
            reason = "one query:\nno latency per sample" if row["scenario"] == "offline" else "too few queries"
            column_text(ax, place, reason, style.MUTED)
            continue
        ax.hlines(place, min(resolved.values()), max(resolved.values()), color=style.MUTED, linewidth=1.4, zorder=3)
        for name, ms in reversed(resolved.items()):
            ax.plot(ms, place, zorder=5, **_PERCENTILES[name])
        column_text(ax, place, " / ".join(map(short, resolved.values())) + " ms")
    fit_axis(ax, "x", values.ravel(), after=0.15, zero=True)
    set_rows(ax, [""] * len(frame), shown=False)
    describe(ax, x="Latency (ms) ↓")
    handles = [Line2D([], [], label=name, **look) for name, look in _PERCENTILES.items()]
    spacing = {"handletextpad": 0.1, "columnspacing": 0.9}
    legend(ax, "lower right", (1.02, 0.99), handles, ncols=3, fontsize=TEXT, **spacing)


def server_rate_data(rate: Any) -> pd.DataFrame:
    """Return a row for each rate that :func:`workbench.find_server_rate` tried; an unknown latency is NaN."""
    fits = hasattr(rate, "probes") and hasattr(rate, "latency_bound_ms")
    require(fits, "plot_server_rate", "the result of wb.find_server_rate(...)", rate)
    results = [probe.result for probe in rate.probes]
    figures = attribute_frame(results, {"latency_ms": "latency_ms_target", "completed_per_s": "samples_per_s"})
    probes = attribute_frame(rate.probes, {name: name for name in ("per_s", "held", "reason")})
    return probes.join(figures.astype({"latency_ms": float}))


def plot_server_rate(rate: Any, *, ax: Axes | None = None) -> Figure:
    """Draw the latency at the target percentile over the arrival rate, for every rate that was tried.

    A test with too few queries for that percentile is drawn at the upper edge.
    """
    frame = server_rate_data(rate)
    if frame.empty:
        return empty_chart(ax, f"No rate was tried: {rate.ended}.")
    target = axes_or_new(ax, 7.0, 4.0)
    fit_axis(target, "x", frame["per_s"], before=0.1, after=0.1)
    fit_axis(target, "y", [*frame["latency_ms"].dropna(), rate.latency_bound_ms], before=0.15, after=0.25, zero=True)
    source = f"{rate.offline.backend}, Poisson arrivals (Offline: {short(rate.offline.samples_per_s)} samples/s)"
    title = f"{'No' if rate.per_s is None else 'Highest'} rate within the latency bound"
    axis = f"p{100 * rate.percentile:g} latency (ms) ↓"
    figure = describe(target, title, source, x="Arrival rate (queries/s)", y=axis)
    points = frame.assign(latency_ms=frame["latency_ms"].fillna(target.get_ylim()[1]))
    labels = []
    for held, mark, color, text in ((True, "o", style.GOOD, "valid"), (False, "X", style.BAD, "not valid")):
        some = points[points["held"] == held]
        if len(some):
            target.plot(some["per_s"], some["latency_ms"], mark, color=color, markersize=7.5, zorder=5, clip_on=False)
            first = some.iloc[some["per_s"].argmin() if held else some["per_s"].argmax()]
            labels.append(Label(text, first["per_s"], first["latency_ms"], essential=True, color=color))
    _bound_and_rate(target, rate, labels, list(zip(points["per_s"], points["latency_ms"], strict=True)))
    return figure


def _bound_and_rate(ax: Axes, rate: Any, labels: list[Label], points: list[tuple[float, float]]) -> None:
    bound = rate.latency_bound_ms
    ax.axhline(bound, color=style.INK, linewidth=1.1, linestyle="--", zorder=3)
    if rate.per_s is not None:
        ax.axvline(rate.per_s, color=style.GOOD, linewidth=1.3, zorder=2)
        if rate.failed_per_s is not None:
            ax.axvspan(rate.per_s, rate.failed_per_s, color=style.FAINT, alpha=0.45, linewidth=0, zorder=1)
        text = f"{short(rate.per_s)} queries/s"
        labels.insert(0, Label(text, rate.per_s, ax.get_ylim()[0], bold=True, essential=True))
    figure_of(ax).draw_without_rendering()
    line = LineLabel(f"bound {bound:g} ms", bound, style.INK, above=True)
    notes = place_on_lines(ax, [line], Obstacles(points=points))
    across = [(x, bound) for x in ax.get_xlim()]
    place_labels(ax, labels, Obstacles(points=points, lines=across, texts=notes))
