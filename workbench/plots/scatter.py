"""The scatter shared by the charts of quality against a cost: points, intervals, front, limits, legend, labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from workbench.plots import style
from workbench.plots.canvas import TEXT, nice_ticks, plain_log, wants_log
from workbench.plots.frame import front
from workbench.plots.labels import Label, Obstacles, place_labels

FAR_BELOW = 6.0  # drops beyond this many times the acceptable one are drawn at the chart's lower edge


@dataclass(frozen=True)
class Axis:
    """The cost on the x axis: its column, its words with the unit, and the columns of its interval if it has one."""

    column: str
    words: str
    low: str | None = None
    high: str | None = None


def scatter(
    ax: Axes,
    frame: pd.DataFrame,
    axis: Axis,
    *,
    quality_drop: float | None,
    label: Callable[[Any], str],
    speedups: bool = False,
    fill: str | None = None,
    whole: pd.DataFrame | None = None,
) -> Callable[[], object]:
    """Draw ``frame`` (columns of ``tradeoff_data`` or ``memory_data``) as quality against ``axis``.

    ``fill`` draws every marker alike, where the backend makes no difference. ``whole`` gives the quality axis and
    its reference lines, where ``frame`` is a part of it and another panel shares the axis. Returns what writes
    the labels: to be called once everything else is in the figure, so that they are fitted to the final layout.
    """
    whole = frame if whole is None else whole
    floor = _floor(whole, quality_drop)
    _quality_limits(ax, whole, floor, quality_drop)
    log = _cost_limits(ax, frame, axis)
    shown = frame.assign(drawn_at=frame["quality"].where(frame["quality"] >= floor, ax.get_ylim()[0]))
    line = _front(ax, frame, axis, floor)
    texts = _reference_lines(ax, shown, axis, _baseline(whole), quality_drop)
    for _, row in shown.iterrows():
        _point(ax, row, axis, floor, {"fillstyle": fill} if fill else {})
    ax.set_xlabel(axis.words, fontsize=TEXT + 0.5, color=style.INK)
    ax.set_ylabel("quality, the task's metric (higher is better)", fontsize=TEXT + 0.5, color=style.INK)
    if speedups:
        _speedup_axis(ax, frame, log=log)
    labels, obstacles = _labels(shown, axis, floor, label)
    obstacles.lines, obstacles.texts = line, texts
    return lambda: place_labels(ax, labels, obstacles)


def _baseline(frame: pd.DataFrame) -> float | None:
    quality = frame.loc[frame["baseline"], "quality"]
    return None if quality.empty else float(quality.iloc[0])


def _floor(frame: pd.DataFrame, quality_drop: float | None) -> float:
    """Return the quality below which points are drawn at the lower edge, -inf where all fit."""
    worst, best = frame["quality"].min(), frame["quality"].max()
    base = _baseline(frame)
    if not quality_drop or base is None:
        return float("-inf")
    floor = base - FAR_BELOW * quality_drop
    return floor if best - worst > 2 * (best - floor) else float("-inf")


def _quality_limits(ax: Axes, frame: pd.DataFrame, floor: float, quality_drop: float | None) -> None:
    inside = frame[frame["quality"] >= floor]
    low = min(inside["quality"].min(), inside["quality_low"].min(skipna=True))
    high = max(inside["quality"].max(), inside["quality_high"].max(skipna=True))
    base = _baseline(frame)
    if base is not None:
        high = max(high, base)
        low = min(low, base - (quality_drop or 0.0))
    margin = 0.1 * (high - low) or 0.02 * abs(high) or 0.1
    below = 1.4 if floor > float("-inf") else 1.0
    ax.set_ylim(low - below * margin, high + 1.6 * margin)


def _cost_limits(ax: Axes, frame: pd.DataFrame, axis: Axis) -> bool:
    """Set the x axis, on a log scale where the range asks for it; returns whether it did."""
    x = frame[axis.column]
    log = wants_log(list(x))
    if log:
        ax.set_xscale("log")
        ax.set_xlim(x.min() / 1.28, x.max() * 1.28)
        plain_log(ax.xaxis, *ax.get_xlim())
    else:
        pad = 0.12 * (x.max() - x.min()) or 0.1 * x.max() or 1.0
        ax.set_xlim(x.min() - pad, x.max() + pad)
    return log


def _front(ax: Axes, frame: pd.DataFrame, axis: Axis, floor: float) -> list[tuple[float, float]]:
    points = front(frame, axis.column)
    points = points[points["quality"] >= floor]
    corners = []
    height = ax.get_ylim()[0]
    for x, y in zip(points[axis.column], points["quality"], strict=True):
        corners += [(x, height), (x, y)]
        height = y
    corners.append((ax.get_xlim()[1], height))
    ax.plot(*zip(*corners, strict=True), color=style.MUTED, linewidth=1.1, alpha=0.75, zorder=2)
    return [(float(x), float(y)) for x, y in corners]


def _reference_lines(
    ax: Axes, frame: pd.DataFrame, axis: Axis, quality: float | None, quality_drop: float | None
) -> list[Any]:
    """Draw the baseline's quality, named above its line, and the lowest acceptable one, named below its line."""
    if quality is None:
        return []
    ax.axhline(quality, color=style.INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    texts = [_edge_text(ax, frame, axis, quality, f"baseline {quality:.4g}", style.INK, above=True)]
    if quality_drop:
        limit = quality - quality_drop
        ax.axhline(limit, color=style.BAD, linewidth=1.2, linestyle=(0, (6, 3)), zorder=1)
        words = f"acceptable: {limit:.4g} or more (drop {quality_drop:g})"
        texts.append(_edge_text(ax, frame, axis, limit, words, style.BAD, above=False))
    return texts


def _edge_text(ax: Axes, frame: pd.DataFrame, axis: Axis, y: float, words: str, colour: str, *, above: bool) -> Any:
    """Write above or below a horizontal line, at the end where fewer points are near."""
    points = ax.transData.transform(frame[[axis.column, "drawn_at"]].to_numpy(dtype=float))
    inside = ax.get_window_extent()
    height = ax.transData.transform((ax.get_xlim()[1], y))[1]
    reach = (10, 0.06 * inside.height + 10) if above else (0.06 * inside.height + 10, 10)
    near = points[(points[:, 1] > height - reach[0]) & (points[:, 1] < height + reach[1])][:, 0]
    right = (near > inside.x0 + 0.6 * inside.width).sum() <= (near < inside.x0 + 0.4 * inside.width).sum()
    gap = 5.5 if len(near) else 2.5
    return ax.annotate(
        words,
        (1.0 if right else 0.0, y),
        (-3 if right else 3, gap if above else -gap),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom" if above else "top",
        fontsize=TEXT - 1,
        color=colour,
        zorder=7,
    )


def _point(ax: Axes, row: Any, axis: Axis, floor: float, look: dict[str, Any]) -> None:
    x, y = row[axis.column], row["drawn_at"]
    emphasised = bool(row["pareto"] or row["recommended"] or row["baseline"])
    off_scale = row["quality"] < floor
    marks = style.marker(row, zorder=6 if row["recommended"] else 5 if emphasised else 4, clip_on=False, **look)
    bar: dict[str, Any] = {
        "color": marks["color"],
        "linewidth": 1.0,
        "alpha": 0.45,
        "zorder": 3,
        "solid_capstyle": "butt",
    }
    if not off_scale and pd.notna(row["quality_low"]):
        ax.plot([x, x], [row["quality_low"], row["quality_high"]], **bar)
    if axis.low and axis.high and pd.notna(row[axis.low]):
        ax.plot([row[axis.low], row[axis.high]], [y, y], **bar)
    ax.plot([x], [y], **marks)
    if row["recommended"]:
        ring: dict[str, Any] = {
            "marker": "o",
            "markersize": 22,
            "fillstyle": "none",
            "color": style.INK,
            "markeredgewidth": 1.8,
        }
        ax.plot([x], [y], zorder=6, clip_on=False, **ring)


def key(ax: Axes, frame: pd.DataFrame) -> None:
    """Put the key of techniques, backends and marks at the right of ``ax``."""
    techniques = [t for t in style.TECHNIQUES if t in set(frame["technique"])]
    backends = [b for b in style.BACKENDS if b in set(frame["backend"])]
    backends += sorted(set(frame["backend"]) - set(backends))
    if not set(frame["technique"]) <= set(style.TECHNIQUES):
        techniques.append("other")
    handles = [Line2D([], [], linestyle="none", label="technique")]
    for name in techniques:
        look = style.marker({"technique": name, "backend": "openvino"})
        handles.append(Line2D([], [], label=style.technique(name).word, **look))
    handles.append(Line2D([], [], linestyle="none", label="backend"))
    for name in backends:
        look = style.marker({"technique": "float", "backend": name}, marker="s")
        handles.append(Line2D([], [], label=style.backend(name).word, **look))
    ring: dict[str, Any] = {
        "marker": "o",
        "fillstyle": "none",
        "color": style.INK,
        "markeredgewidth": 1.6,
        "linestyle": "none",
    }
    handles.append(Line2D([], [], linestyle="none", label="marks"))
    handles.append(Line2D([], [], color=style.MUTED, linewidth=1.1, label="Pareto front"))
    if frame["recommended"].any():
        handles.append(Line2D([], [], markersize=13, label="recommended", **ring))
    box = ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=TEXT - 0.5,
        labelspacing=0.65,
        handletextpad=0.6,
        borderaxespad=0.0,
    )
    for text in box.get_texts():
        if text.get_text() in ("technique", "backend", "marks"):
            text.set_fontweight("bold")
            text.set_x(-22)


def _speedup_axis(ax: Axes, frame: pd.DataFrame, *, log: bool) -> None:
    base = frame.loc[frame["baseline"], "latency_ms_p50"]
    if base.empty or not log:
        return
    milliseconds = float(base.iloc[0])
    low, high = (milliseconds / x for x in reversed(ax.get_xlim()))
    top = ax.secondary_xaxis("top", functions=(lambda x: x, lambda x: x))
    ticks = nice_ticks(low, high)
    top.xaxis.set_major_locator(FixedLocator([milliseconds / tick for tick in ticks]))
    top.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{milliseconds / x:.3g}×"))
    top.xaxis.set_minor_locator(NullLocator())
    top.tick_params(labelsize=TEXT - 0.5, labelcolor=style.MUTED, color=style.FAINT, pad=1)
    top.spines["top"].set_visible(False)
    top.set_xlabel("speed-up over the baseline", fontsize=TEXT, color=style.MUTED, loc="right")


def _labels(
    shown: pd.DataFrame, axis: Axis, floor: float, words: Callable[[Any], str]
) -> tuple[list[Label], Obstacles]:
    labels, obstacles, named = [], Obstacles(), set()
    order = shown.sort_values(["recommended", "baseline", "pareto"], ascending=False, kind="stable")
    for _, row in order.iterrows():
        off_scale = row["quality"] < floor
        place = float(row[axis.column]), float(row["drawn_at"])
        obstacles.points.append(place)
        if not off_scale and pd.notna(row["quality_low"]):
            obstacles.bars.append((place[0], row["quality_low"], place[0], row["quality_high"]))
        bold = bool(row["recommended"])
        if (off_scale and row["recipe_id"] not in named) or bold or row["baseline"] or row["pareto"]:
            named.add(row["recipe_id"])
            text = f"{words(row)} ↓ {row['quality']:.3g}" if off_scale else words(row)
            clear = 12.0 if bold else 5.0
            labels.append(Label(text, *place, bold=bold, essential=bool(bold or row["baseline"]), clear=clear))
    return labels, obstacles
