"""Scatter of quality over a cost: points, intervals, Pareto front, limits, legend, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from workbench.plots.charts.study.tidy import front
from workbench.plots.drawing.figure import describe, figure_of, fit_axis, legend_right
from workbench.plots.drawing.labels import Label, LineLabel, Obstacles, place_labels, place_on_lines
from workbench.present import style

FAR_BELOW = 6.0  # a drop beyond this many times the acceptable one is drawn at the lower edge
_ROOM = 2.0  # an interval may widen the axis by this factor at either end
_RING: dict[str, Any] = {"marker": "o", "fillstyle": "none", "color": style.INK, "linestyle": "none"}


@dataclass(frozen=True)
class Axis:
    """The cost on the x axis: column, label with unit, and the columns of its interval."""

    column: str
    label: str
    low: str | None = None
    high: str | None = None


def scatter(
    ax: Axes,
    frame: pd.DataFrame,
    axis: Axis,
    *,
    quality_drop: float | None,
    label: Callable[[Any], str],
    fill: str | None = None,
    whole: pd.DataFrame | None = None,
) -> Callable[[], None]:
    """Draw ``frame`` (columns of ``tradeoff_data`` or ``memory_data``) as quality over ``axis``.

    ``fill`` is one fill for all markers, if the backend does not matter. ``whole`` sets the quality axis and its
    reference lines if ``frame`` is a part of it and panels share the axis. Returns a function that writes the labels,
    to be called when the figure is otherwise complete, because labels are fitted to the final layout.
    """
    whole = frame if whole is None else whole
    floor = _floor(whole, quality_drop)
    _quality_limits(ax, whole, floor, quality_drop)
    _cost_limits(ax, frame, axis)
    shown = frame.assign(drawn_at=frame["quality"].where(frame["quality"] >= floor, ax.get_ylim()[0]))
    line = _front(ax, frame, axis, floor)
    on_lines = _reference_lines(ax, _baseline(whole), quality_drop)
    for _, row in shown.iterrows():
        _point(ax, row, axis, floor, {"fillstyle": fill} if fill else {})
    describe(ax, x=axis.label, y="Quality (task's metric) ↑")
    labels, obstacles = _labels(shown, axis, floor, label)
    obstacles.lines = line

    def write() -> None:
        figure_of(ax).draw_without_rendering()  # settles the layout
        obstacles.texts = place_on_lines(ax, on_lines, obstacles)
        place_labels(ax, labels, obstacles)

    return write


def _baseline(frame: pd.DataFrame) -> float | None:
    quality = frame.loc[frame["baseline"], "quality"]
    return None if quality.empty else float(quality.iloc[0])


def _floor(frame: pd.DataFrame, quality_drop: float | None) -> float:
    """Return the quality below which points are drawn at the lower edge, -inf if all fit."""
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


def _cost_limits(ax: Axes, frame: pd.DataFrame, axis: Axis) -> None:
    """Set the x axis, log if the range needs it, with room for labels at the left end."""
    x = frame[axis.column]
    low, high = float(x.min()), float(x.max())
    if axis.low and axis.high:  # show whole intervals unless one would compress the points
        low = max(min(low, float(frame[axis.low].fillna(low).min())), low / _ROOM)
        high = min(max(high, float(frame[axis.high].fillna(high).max())), high * _ROOM)
    fit_axis(ax, "x", [low, high], before=0.21, after=0.1)


def _front(ax: Axes, frame: pd.DataFrame, axis: Axis, floor: float) -> list[tuple[float, float]]:
    points = front(frame[frame["pareto"]], axis.column)
    points = points[points["quality"] >= floor]
    corners = []
    height = ax.get_ylim()[0]
    for x, y in zip(points[axis.column], points["quality"], strict=True):
        corners += [(x, height), (x, y)]
        height = y
    corners.append((ax.get_xlim()[1], height))
    ax.plot(*zip(*corners, strict=True), color=style.MUTED, linewidth=1.1, alpha=0.75, zorder=2)
    return [(float(x), float(y)) for x, y in corners]


def _reference_lines(ax: Axes, quality: float | None, quality_drop: float | None) -> list[LineLabel]:
    """Draw lines for the quality of the baseline and for the acceptable limit; return their labels."""
    if quality is None:
        return []
    ax.axhline(quality, color=style.INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    labels = [LineLabel(f"baseline {quality:.4g}", quality, style.INK, above=True)]
    if quality_drop:
        limit = quality - quality_drop
        ax.axhline(limit, color=style.BAD, linewidth=1.2, linestyle=(0, (6, 3)), zorder=1)
        text = f"acceptable: {limit:.4g} or more (drop {quality_drop:g})"
        labels.append(LineLabel(text, limit, style.BAD, above=False))
    return labels


def _point(ax: Axes, row: Any, axis: Axis, floor: float, look: dict[str, Any]) -> None:
    x, y = row[axis.column], row["drawn_at"]
    emphasized = bool(row["pareto"] or row["recommended"] or row["baseline"])
    off_scale = row["quality"] < floor
    if row["reference"]:
        look = {**look, **style.REFERENCE}
    elif row["fidelity"] == "survey":
        look = {**look, **style.SURVEY}
    marks = style.marker(row, zorder=6 if row["recommended"] else 5 if emphasized else 4, clip_on=False, **look)
    bar: dict[str, Any] = {"color": marks["color"], "linewidth": 1.0, "alpha": 0.45, "zorder": 3}
    bar["solid_capstyle"] = "butt"
    if not off_scale and pd.notna(row["quality_low"]):
        ax.plot([x, x], [row["quality_low"], row["quality_high"]], **bar)
    if axis.low and axis.high and pd.notna(row[axis.low]):
        ax.plot([row[axis.low], row[axis.high]], [y, y], **bar)
    ax.plot([x], [y], **marks)
    if row["recommended"]:
        ax.plot([x], [y], zorder=6, clip_on=False, markersize=22, markeredgewidth=1.8, **_RING)


def mark_label(row: Any) -> str:
    """Return the label of a mark: the recipe, with its role if it has one."""
    if row["recommended"]:
        return f"recommended\n{row['recipe']}"
    if row["reference"]:
        engine = style.backend(row["backend"]).word
        return engine if row["reference"] == engine else f"{engine}, {row['reference']}"
    if row["fidelity"] == "survey":
        return f"{row['recipe']} (survey)"
    return f"{row['recipe']} (baseline)" if row["baseline"] else str(row["recipe"])


def key(ax: Axes, frame: pd.DataFrame) -> None:
    """Add the legend of techniques, backends and marks at the right of ``ax``."""
    handles = [Line2D([], [], linestyle="none", label="technique"), *technique_key(frame["technique"])]
    handles.append(Line2D([], [], linestyle="none", label="backend"))
    for name in style.in_legend(frame["backend"], style.BACKENDS):
        look = style.marker({"technique": "float", "backend": name}, marker="s")
        handles.append(Line2D([], [], label=style.backend(name).word, **look))
    handles.append(Line2D([], [], linestyle="none", label="marks"))
    handles.append(Line2D([], [], color=style.MUTED, linewidth=1.1, label="Pareto front"))
    if frame["recommended"].any():
        handles.append(Line2D([], [], markersize=13, markeredgewidth=1.6, label="recommended", **_RING))
    plain = {"technique": "float", "backend": "torch-eager"}
    if (frame["reference"] != "").any():
        handles.append(Line2D([], [], label="reference, not ranked", **style.marker(plain, **style.REFERENCE)))
    if (frame["fidelity"] == "survey").any():
        looks = {**style.SURVEY, "color": style.MUTED, "markeredgecolor": style.MUTED}
        handles.append(Line2D([], [], label="survey, low fidelity", **style.marker(plain, **looks)))
    for text in legend_right(ax, handles, handletextpad=0.6).get_texts():
        if text.get_text() in ("technique", "backend", "marks"):
            text.set_fontweight("bold")
            text.set_x(-22)


def technique_key(names: Iterable[str], **look: Any) -> list[Line2D]:
    """Return the entries of a legend for techniques, unknown ones as one."""
    techniques = [name if name in style.TECHNIQUES else "other" for name in names]
    return [
        Line2D(
            [], [], label=style.technique(name).word, **style.marker({"technique": name, "backend": "openvino"}, **look)
        )
        for name in style.in_legend(techniques, style.TECHNIQUES)
    ]


def _labels(
    shown: pd.DataFrame, axis: Axis, floor: float, label_of: Callable[[Any], str]
) -> tuple[list[Label], Obstacles]:
    obstacles = Obstacles()
    chosen, named = [], set()
    for _, row in shown.sort_values(["recommended", "baseline", "pareto"], ascending=False, kind="stable").iterrows():
        place = float(row[axis.column]), float(row["drawn_at"])
        (obstacles.rings if row["recommended"] else obstacles.points).append(place)
        off_scale = row["quality"] < floor
        if not off_scale and pd.notna(row["quality_low"]):
            obstacles.bars.append((place[0], row["quality_low"], place[0], row["quality_high"]))
        if axis.low and axis.high and pd.notna(row[axis.low]) and pd.notna(row[axis.high]):
            obstacles.bars.append((row[axis.low], place[1], row[axis.high], place[1]))
        special = row["recommended"] or row["baseline"] or row["pareto"] or row["reference"]
        surveyed = row["fidelity"] == "survey"
        if special or ((off_scale or surveyed) and row["recipe_id"] not in named):
            named.add(row["recipe_id"])
            chosen.append((row, place, off_scale))
    recipes = [row["recipe"] for row, _, off_scale in chosen if not off_scale]
    labels = []
    for row, place, off_scale in chosen:
        text = label_of(row)
        if off_scale:
            text += f" ↓ {row['quality']:.3g}"
        elif text == row["recipe"] and recipes.count(text) > 1:
            text += f", {style.backend(row['backend']).word}"
        bold = bool(row["recommended"])
        essential = bool(bold or row["baseline"] or row["reference"])
        labels.append(Label(text, *place, bold=bold, essential=essential, clear=12.0 if bold else 5.0))
    return labels, obstacles
