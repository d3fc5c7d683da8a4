"""How a search went: every point it tried, the best so far, and the goals."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from workbench.core.checks import given
from workbench.core.errors import ConfigError, unknown_name
from workbench.plots.drawing.figure import (
    TEXT,
    axes_or_new,
    figure_of,
    new_figure,
    nice_ticks,
    plain_log,
    plural,
    say,
    title,
    wants_log,
)
from workbench.present import style

_FAR = 6.0
"""A drop this many times the goal is drawn on a scale that is logarithmic beyond the goal."""
AGAINST = {"points": ("different points tried", "point"), "seconds": ("seconds of searching", "elapsed_s")}
_LOOKS = {
    "holds": ("o", "holds the goals"),
    "misses": ("o", "misses a goal"),
    "pruned": ("v", "pruned, not timed"),
    "failed": ("x", "failed"),
}
_NAMES = {
    "latency_ms_rel": "Latency (ms/batch)",
    "latency_ms_p50": "Latency as timed (ms/batch)",
    "throughput_per_s": "Throughput (samples/s)",
    "quality_drop": "Quality drop (validation)",
    "peak_rss_mib": "Peak memory (MiB)",
    "size_mib": "Size (MiB)",
}

_UNITS = {
    "latency_ms_rel": " ms",
    "latency_ms_p50": " ms",
    "throughput_per_s": " per s",
    "peak_rss_mib": " MiB",
    "size_mib": " MiB",
}


def search_data(search: Any) -> pd.DataFrame:
    """Return a row for each different point that a search tried, in order; one that came back stands once.

    ``look`` is holds, misses, pruned or failed, ``value`` the first figure of the question as the search saw it,
    ``best_so_far`` the best of it among those that hold the goals.
    """
    history = _history(search)
    frame: pd.DataFrame = history.frame()
    figure = history.objective.figures[0]
    if frame.empty:
        return pd.DataFrame(columns=["point", "elapsed_s", "look", "technique", "recipe", "value", "best_so_far"])
    frame = frame[frame["state"] != "interrupted"]
    keys = frame["trial_key"].fillna(frame["number"].astype(str))
    frame = frame[~keys.duplicated()].reset_index(drop=True)
    frame["point"] = frame.index + 1
    timed = frame["holds"].map({True: "holds", False: "misses"})
    frame["look"] = frame["state"].where(frame["state"] != "complete", timed)
    frame["value"] = frame[figure]
    return frame


def plot_search(search: Any, *, against: str = "points", ax: Axes | None = None) -> Figure:
    """Draw the best so far and every point tried, and beside it what each lost of quality, with the goals as lines.

    Parameters
    ----------
    search : Study, SearchResult or History
        A study that was searched, also while it is; or what the search returned.
    against : str
        ``"points"`` or ``"seconds"``.
    ax
        Draw the left half here instead of both into a new figure.

    Examples
    --------
    >>> plot_search(study.search(space))  # doctest: +SKIP
    """
    if against not in AGAINST:
        raise ConfigError("plot_search: " + unknown_name("axis (against)", against, AGAINST))
    history, frame = _history(search), search_data(search)
    if frame.empty:
        _, target = axes_or_new(ax, 6.4, 3.6)
        say(target, "Nothing to draw: no point has ended yet.")
        return figure_of(target)
    if ax is not None:
        figure, left = axes_or_new(ax, 6.4, 3.6)
    else:
        figure, (left, right) = new_figure(10.4, 4.4, columns=2)
        _drops(right, frame, history, against)
    _figures(left, frame, history, against)
    if ax is None:
        _legend(figure, frame)
    return figure


def _history(search: Any) -> Any:
    from workbench.study.search.history import History

    found = search if isinstance(search, History) else getattr(search, "history", None)
    if found is None and callable(getattr(search, "search_history", None)):
        found = search.search_history()
    if not isinstance(found, History):
        raise ConfigError(
            f"plot_search takes a study that was searched, what study.search(...) returned, or its history; got "
            f"{given(search)}."
        )
    return found


def _figures(ax: Axes, frame: pd.DataFrame, history: Any, against: str) -> None:
    """Draw the figure of each timed point and the best so far; what has none stands at the upper edge."""
    column = AGAINST[against][1]
    name, goals = history.objective.figures[0], history.objective.goals
    limits = {
        "latency_ms_rel": goals.max_latency_ms,
        "size_mib": goals.max_size_mib,
        "peak_rss_mib": goals.max_peak_rss_mib,
    }
    limit = limits.get(name)
    known = [*frame["value"].dropna(), *([limit] if limit is not None else [])]
    if wants_log(known):
        ax.set_yscale("log")
        ax.set_ylim(min(known) / 1.7, max(known) * 1.7)
        plain_log(ax.yaxis, *ax.get_ylim())
    elif known:
        room = 0.12 * (max(known) - min(known) or abs(max(known)) or 1.0)
        ax.set_ylim(min(known) - 1.6 * room, max(known) + 1.6 * room)
    more = history.objective.directions[0] == "maximize"
    _points(ax, frame, column, "value", worse_below=more)
    best = frame.dropna(subset=["best_so_far"])
    ends = [*best[column], frame[column].iloc[-1]] if len(best) else []
    ax.step(ends, [*best["best_so_far"], *best["best_so_far"].iloc[-1:]], where="post", color=style.INK, linewidth=1.4)
    if limit is not None:
        _goal(ax, limit)
    _axis(ax, frame, against)
    ax.set_ylabel(f"{_NAMES.get(name, name)} {'↑' if more else '↓'}", fontsize=TEXT + 0.5, color=style.INK)
    title(ax, "Best so far", _best_words(frame, name))


def _drops(ax: Axes, frame: pd.DataFrame, history: Any, against: str) -> None:
    """Draw what each point loses on the validation split, pruned ones too, with the goal."""
    limit = history.objective.goals.max_quality_drop
    lost = [*frame["validation_drop"].dropna(), limit, 0.0]
    room = 0.08 * (max(lost) - min(lost) or 1.0)
    if 0 < _FAR * limit < max(lost):  # what is hopeless must not press together what is close to the goal
        ax.set_yscale("symlog", linthresh=limit)
        ax.set_ylim(min(-0.3 * limit, 1.5 * min(lost)), max(lost) * 2.5)
        beyond = nice_ticks(1.9 * limit, max(lost) * 2.5)
        ticks = [-limit, 0.0, *beyond[:: -(-len(beyond) // 4)]]  # four of them at most
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick >= ax.get_ylim()[0]]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(min(lost) - room, max(lost) + 2.2 * room)
    _points(ax, frame, AGAINST[against][1], "validation_drop")
    _goal(ax, limit)
    _axis(ax, frame, against)
    ax.set_ylabel("Quality drop (metric's units) ↓", fontsize=TEXT + 0.5, color=style.INK)
    title(ax, "Quality lost", "on the validation split, which the search may see")


def _points(ax: Axes, frame: pd.DataFrame, x: str, y: str, *, worse_below: bool = False) -> None:
    """Draw every point; one without a figure stands at the edge where the worse ones are."""
    edge = 0.035 if worse_below else 0.965  # of the axes
    for row in frame.to_dict("records"):
        colour = style.technique(row["technique"]).colour
        marker, _ = _LOOKS[row["look"]]
        fill = colour if row["look"] == "holds" else "white"
        known = pd.notna(row[y])
        height, scale = (row[y], ax.transData) if known else (edge, ax.get_xaxis_transform())
        ax.plot([row[x]], [height], marker, color=colour, markerfacecolor=fill, markersize=6, zorder=4, transform=scale)


def _goal(ax: Axes, limit: float) -> None:
    """Draw the limit, with its words at the right of the axes, where no point stands."""
    ax.axhline(limit, color=style.BAD, linewidth=1.1, linestyle="--", zorder=2)
    ax.annotate(
        f"goal\n{limit:g}",
        (1, limit),
        (4, 0),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=TEXT - 0.5,
        color=style.BAD,
        annotation_clip=False,
    )


def _axis(ax: Axes, frame: pd.DataFrame, against: str) -> None:
    words, column = AGAINST[against]
    last = float(frame[column].max())
    ax.set_xlim(0.3 if column == "point" else 0.0, last * 1.04 + (0.5 if column == "point" else 0.0))
    if column == "point":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(words, fontsize=TEXT + 0.5, color=style.INK)


def _best_words(frame: pd.DataFrame, figure: str) -> str:
    best = frame[frame["look"] == "holds"].dropna(subset=["value"])
    best = best[best["value"] == frame["best_so_far"].dropna().iloc[-1]] if len(best) else best
    counted = plural(len(frame), "point")
    if best.empty:
        return f"{counted}; none holds the goals yet"
    row = best.iloc[0]
    shown = f"{row['value']:,.0f}" if row["value"] >= 1000 else f"{row['value']:.4g}"
    return f"{row['recipe']} on {row['backend']}: {shown}{_UNITS.get(figure, '')} ({counted})"


def _legend(figure: Figure, frame: pd.DataFrame) -> None:
    handles = []
    for name in dict.fromkeys(frame["technique"].dropna()):
        mark = style.technique(name)
        handles.append(Line2D([], [], marker="o", linestyle="none", color=mark.colour, label=mark.word))
    for look in [look for look in _LOOKS if (frame["look"] == look).any()]:
        marker, words = _LOOKS[look]
        fill = style.MUTED if look == "holds" else "white"
        handles.append(
            Line2D([], [], marker=marker, linestyle="none", color=style.MUTED, markerfacecolor=fill, label=words)
        )
    if frame["best_so_far"].notna().any():
        handles.append(Line2D([], [], color=style.INK, linewidth=1.4, label="best so far"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=TEXT - 0.5, frameon=False)
