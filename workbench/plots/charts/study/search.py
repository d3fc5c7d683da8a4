"""Progress of a search: every point it tried, the best so far, and the goals."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from workbench.core.errors import ConfigError, unknown_name
from workbench.core.format.numbers import plural
from workbench.plots.drawing.figure import (
    TEXT,
    annotate,
    describe,
    empty_chart,
    figure_of,
    fit_axis,
    new_figure,
    nice_ticks,
    style_axes,
)
from workbench.plots.drawing.frames import require
from workbench.present import style

_FAR = 6.0  # the drop axis is logarithmic beyond the goal if a drop is this many times the goal
AGAINST = {"points": ("Distinct points tried", "point"), "seconds": ("Search time (s)", "elapsed_s")}
_LOOKS = {
    "holds": ("o", "meets the goals"),
    "misses": ("o", "misses a goal"),
    "pruned": ("v", "pruned, not timed"),
    "failed": ("x", "failed"),
}
_FIGURES = {
    "latency_ms_rel": ("Latency (ms/batch)", " ms"),
    "latency_ms_p50": ("Latency as timed (ms/batch)", " ms"),
    "throughput_per_s": ("Throughput (samples/s)", " samples/s"),
    "quality_drop": ("Quality drop (validation)", ""),
    "peak_rss_mib": ("Peak memory (MiB)", " MiB"),
    "size_mib": ("Size (MiB)", " MiB"),
}
"""Axis label and unit of each figure that a search can optimize."""


def search_data(search: Any) -> pd.DataFrame:
    """Return a row for each distinct point of a search, in order.

    ``look`` is holds, misses, pruned or failed, ``value`` the first objective, ``best_so_far`` its best value among
    points that meet the goals.
    """
    history = _history(search)
    frame: pd.DataFrame = history.frame()
    if frame.empty:
        return pd.DataFrame(columns=["point", "elapsed_s", "look", "technique", "recipe", "value", "best_so_far"])
    frame = frame[frame["state"] != "interrupted"]
    keys = frame["trial_key"].fillna(frame["number"].astype(str))
    frame = frame[~keys.duplicated()].reset_index(drop=True)
    frame["point"] = frame.index + 1
    timed = frame["holds"].map({True: "holds", False: "misses"})
    frame["look"] = frame["state"].where(frame["state"] != "complete", timed)
    frame["value"] = frame[history.objective.figures[0]]
    return frame


def plot_search(search: Any, *, against: str = "points", ax: Axes | None = None) -> Figure:
    """Draw the objective of every point with the best so far, and the quality drop of every point, with the goals.

    ``search`` is a study with a finished or running search, the search's result or its history; ``against`` is
    ``"points"`` or ``"seconds"``. ``ax`` gets the objective alone.
    """
    if against not in AGAINST:
        raise ConfigError("plot_search: " + unknown_name("axis (against)", against, AGAINST))
    history, frame = _history(search), search_data(search)
    if frame.empty:
        return empty_chart(ax, "Nothing to draw: no point has ended yet.")
    if ax is not None:
        _objective(style_axes(ax), frame, history, against)
        return figure_of(ax)
    figure, (left, right) = new_figure(10.4, 4.4, columns=2)
    _objective(left, frame, history, against)
    _drops(right, frame, history, against)
    _legend(figure, frame)
    return figure


def _history(search: Any) -> Any:
    from workbench.study.search.history import History

    history = search if isinstance(search, History) else getattr(search, "history", None)
    if history is None and callable(getattr(search, "search_history", None)):
        history = search.search_history()
    source = "a study that was searched, a result of study.search(...), or its history"
    require(isinstance(history, History), "plot_search", source, search)
    return history


def _objective(ax: Axes, frame: pd.DataFrame, history: Any, against: str) -> None:
    """Draw the objective of each timed point and the best so far; other points are drawn at the worse edge."""
    column, objective = AGAINST[against][1], history.objective
    name, goals = objective.figures[0], objective.goals
    limits = {
        "latency_ms_rel": goals.max_latency_ms,
        "size_mib": goals.max_size_mib,
        "peak_rss_mib": goals.max_peak_rss_mib,
    }
    limit = limits.get(name)
    maximize = objective.directions[0] == "maximize"
    values = [*frame["value"].dropna(), *([limit] if limit is not None else [])]
    if values:
        fit_axis(ax, "y", values, before=0.19, after=0.19)
    _points(ax, frame, column, "value", worse_below=maximize)
    best = frame.dropna(subset=["best_so_far"])
    ends = [*best[column], frame[column].iloc[-1]] if len(best) else []
    steps = [*best["best_so_far"], *best["best_so_far"].iloc[-1:]]
    ax.step(ends, steps, where="post", color=style.INK, linewidth=1.4)
    if limit is not None:
        _goal(ax, limit)
    _x_axis(ax, frame, against)
    label, unit = _FIGURES.get(name, (name, ""))
    describe(ax, "Best so far", _best(frame, unit), y=f"{label} {'↑' if maximize else '↓'}")


def _drops(ax: Axes, frame: pd.DataFrame, history: Any, against: str) -> None:
    """Draw the quality drop of each point on the validation split, pruned ones included, with the goal."""
    limit = history.objective.goals.max_quality_drop
    drops = [*frame["validation_drop"].dropna(), limit, 0.0]
    if 0 < _FAR * limit < max(drops):  # keep the points near the goal apart
        ax.set_yscale("symlog", linthresh=limit)
        ax.set_ylim(min(-0.3 * limit, 1.5 * min(drops)), max(drops) * 2.5)
        beyond = nice_ticks(1.9 * limit, max(drops) * 2.5)
        ticks = [-limit, 0.0, *beyond[:: -(-len(beyond) // 4)]]  # four of them at most
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick >= ax.get_ylim()[0]]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        room = 0.08 * (max(drops) - min(drops) or 1.0)
        ax.set_ylim(min(drops) - room, max(drops) + 2.2 * room)
    _points(ax, frame, AGAINST[against][1], "validation_drop")
    _goal(ax, limit)
    _x_axis(ax, frame, against)
    describe(ax, "Quality drop", "on the validation split, which the search uses", y="Quality drop (metric's units) ↓")


def _points(ax: Axes, frame: pd.DataFrame, x: str, y: str, *, worse_below: bool = False) -> None:
    """Draw every point; one without a value is drawn at the worse edge of the axes."""
    edge = 0.035 if worse_below else 0.965  # of the axes
    for row in frame.to_dict("records"):
        color = style.technique(row["technique"]).color
        marker, _ = _LOOKS[row["look"]]
        fill = color if row["look"] == "holds" else "white"
        height, scale = (row[y], ax.transData) if pd.notna(row[y]) else (edge, ax.get_xaxis_transform())
        ax.plot([row[x]], [height], marker, color=color, markerfacecolor=fill, markersize=6, zorder=4, transform=scale)


def _goal(ax: Axes, limit: float) -> None:
    ax.axhline(limit, color=style.BAD, linewidth=1.1, linestyle="--", zorder=2)
    annotate(ax, f"goal\n{limit:g}", (1, limit), (4, 0), color=style.BAD, coords=ax.get_yaxis_transform())


def _x_axis(ax: Axes, frame: pd.DataFrame, against: str) -> None:
    label, column = AGAINST[against]
    counted = column == "point"
    ax.set_xlim(0.3 * counted, float(frame[column].max()) * 1.04 + 0.5 * counted)
    if counted:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    describe(ax, x=label)


def _best(frame: pd.DataFrame, unit: str) -> str:
    points = plural(len(frame), "point")
    best = frame[frame["look"] == "holds"].dropna(subset=["value"])
    if best.empty:
        return f"{points}; none meets the goals yet"
    row = best[best["value"] == frame["best_so_far"].dropna().iloc[-1]].iloc[0]
    value = f"{row['value']:,.0f}" if row["value"] >= 1000 else f"{row['value']:.4g}"
    return f"{row['recipe']} on {row['backend']}: {value}{unit} ({points})"


def _legend(figure: Figure, frame: pd.DataFrame) -> None:
    handles = []
    for name in dict.fromkeys(frame["technique"].dropna()):
        mark = style.technique(name)
        handles.append(Line2D([], [], marker="o", linestyle="none", color=mark.color, label=mark.word))
    for look in [look for look in _LOOKS if (frame["look"] == look).any()]:
        marker, text = _LOOKS[look]
        fill = style.MUTED if look == "holds" else "white"
        options: dict[str, Any] = {"marker": marker, "linestyle": "none", "color": style.MUTED}
        handles.append(Line2D([], [], label=text, markerfacecolor=fill, **options))
    if frame["best_so_far"].notna().any():
        handles.append(Line2D([], [], color=style.INK, linewidth=1.4, label="best so far"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=TEXT - 0.5, frameon=False)
