"""Labels without overlaps: greedy placement at points, along horizontal lines, and at the right ends of curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from workbench.plots.drawing import boxes
from workbench.plots.drawing.boxes import Boxes
from workbench.plots.drawing.figure import TEXT, annotate, escaped, figure_of
from workbench.present.style import INK, MUTED

DISTANCES = (13, 20, 30, 44, 62, 84, 110, 140)  # points from mark to the label's nearest edge
ANGLES = (0, 180, 45, 135, 315, 225, 90, 270, 22, 158, 338, 202, 67, 113, 293, 247)
LEADER_FROM = 20  # a label farther away than this gets a thin line to its mark
GAP = 2.0  # pixels kept free around a label


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y) in data units; an essential label is kept even if no place is free."""

    text: str
    x: float
    y: float
    bold: bool = False
    essential: bool = False
    clear: float = 5.0  # points between the mark's center and the end of the leader line
    color: str = INK


@dataclass
class Obstacles:
    """Marks, bars (x0, y0, x1, y1) and texts that labels avoid, in data units.

    No label may touch ``rings`` and ``texts``; ``lines`` is one polyline.
    """

    rings: list[tuple[float, float]] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float]] = field(default_factory=list)
    lines: list[tuple[float, float]] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    shift: tuple[float, float]
    box: Boxes
    distance: float


class _Ground:
    """The axes in pixels with its obstacles: ``hard`` ones are excluded, ``soft`` ones and ``path`` cost."""

    def __init__(self, ax: Axes, obstacles: Obstacles) -> None:
        self.scale = figure_of(ax).dpi / 72
        self.frame = boxes.of(ax.get_window_extent())
        texts = [boxes.of(text) for text in obstacles.texts]
        rings = boxes.around(boxes.pixels(ax, obstacles.rings), 12 * self.scale)
        self.hard = np.vstack([rings, *texts])
        marks = boxes.around(boxes.pixels(ax, obstacles.points), 6 * self.scale)
        self.soft = np.vstack([marks, boxes.bars(ax, obstacles.bars)])
        self.path = boxes.around(boxes.along(boxes.pixels(ax, obstacles.lines), 8.0), 2 * self.scale)

    def blocked(self, box: Boxes) -> bool:
        return bool((boxes.overlaps(box, self.hard) > 0).any())

    def covered(self, box: Boxes) -> float:
        return float(boxes.overlaps(box, self.soft).sum() + 0.3 * boxes.overlaps(box, self.path).sum())

    def take(self, box: Boxes) -> None:
        self.hard = np.vstack([self.hard, box.reshape(-1, 4)])


def place_labels(ax: Axes, labels: Sequence[Label], obstacles: Obstacles) -> list[Annotation]:
    """Write each label at the cheapest free place near its point and return those written.

    The figure's layout must be settled. Labels come in order of priority: one without a free place is left out, unless
    it is essential; then it gets the place with the least overlap.
    """
    ground = _Ground(ax, obstacles)
    written = []
    for label in labels:
        note = write_label(ax, label)
        box = boxes.of(note)
        point = boxes.pixels(ax, [(label.x, label.y)])[0]
        place = _cheapest(box, point, label.clear, ground)
        if place is None and not label.essential:
            note.remove()
            continue
        place = place or _fallback(box, point, ground)
        note.set_position((place.shift[0] / ground.scale, place.shift[1] / ground.scale))
        ground.take(place.box)
        if place.distance > LEADER_FROM:
            ground.take(_leader(place.box, point, label.clear * ground.scale))
        elif note.arrow_patch is not None:
            note.arrow_patch.set_visible(False)
        written.append(note)
    return written


def write_label(ax: Axes, label: Label) -> Annotation:
    """Write a label with a leader line at its point, to be moved to its place."""
    note = ax.annotate(
        escaped(label.text),
        (label.x, label.y),
        (0, 0),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=TEXT - 0.5,
        fontweight="bold" if label.bold else "normal",
        color=label.color,
        zorder=8,
        linespacing=1.15,
        bbox={"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0, "shrinkB": label.clear},
    )
    note.set_in_layout(False)
    return note


def _cheapest(box: Boxes, point: Boxes, clear: float, ground: _Ground) -> _Place | None:
    """Return the free place with the least overlap and distance, None if no place is free."""
    best: tuple[float, _Place] | None = None
    for distance in DISTANCES:
        if best is not None and best[0] <= distance * 3:
            break  # farther places only cost more
        for turn, angle in enumerate(ANGLES):
            shift = _shift(box, distance * ground.scale, math.radians(angle))
            moved = boxes.moved(box, point + shift - box[:2])
            if not boxes.inside(moved, ground.frame) or ground.blocked(boxes.padded(moved, GAP)):
                continue
            if distance > LEADER_FROM and any(map(ground.blocked, _leader(moved, point, clear * ground.scale))):
                continue
            cost = ground.covered(moved) * 6 + distance * 3 + turn * 0.6
            if best is None or cost < best[0]:
                best = cost, _Place(shift, boxes.padded(moved, GAP), distance)
    return best[1] if best else None


def _leader(box: Boxes, point: Boxes, clear: float) -> Boxes:
    """Return small boxes along the line from a label's center to its mark, without its ends."""
    center = (box[:2] + box[2:]) / 2
    line = center + (point - center) * (np.arange(1, 24) / 24)[:, None]
    bits = boxes.around(line, 1.0)
    outside = boxes.overlaps(boxes.padded(box, 3.0), bits) == 0
    return np.asarray(bits[outside & (np.hypot(*(line - point).T) > clear + 4)])


def _shift(box: Boxes, distance: float, angle: float) -> tuple[float, float]:
    """Return the offset of the label's lower left corner from the point, in pixels."""
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    x = cos * distance + (0 if cos > 0.3 else -width if cos < -0.3 else -width / 2)
    y = sin * distance + (0 if sin > 0.3 else -height if sin < -0.3 else -height / 2)
    return x, y


def _fallback(box: Boxes, point: Boxes, ground: _Ground) -> _Place:
    """Return the place on a coarse grid over the axes with the least overlap."""
    room = np.maximum(0.0, (ground.frame[2:] - ground.frame[:2]) - (box[2:] - box[:2]))
    places = []
    for share in np.stack(np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 1, 21)), axis=-1).reshape(-1, 2):
        corner = ground.frame[:2] + room * share
        moved = boxes.moved(box, corner - box[:2])
        away = float(np.hypot(*(corner - point)))
        cost = float(boxes.overlaps(moved, ground.hard).sum()) * 10 + away
        shift = float(corner[0] - point[0]), float(corner[1] - point[1])
        places.append((cost, _Place(shift, moved, away)))
    return min(places, key=lambda item: item[0])[1]


@dataclass(frozen=True)
class LineLabel:
    """A text above or below a horizontal line at ``y`` in data units."""

    text: str
    y: float
    color: str
    above: bool


def place_on_lines(ax: Axes, lines: Sequence[LineLabel], obstacles: Obstacles) -> list[Annotation]:
    """Write each label at the place along its line with the least overlap, near an end if there is a choice.

    The figure's layout must be settled.
    """
    scale = figure_of(ax).dpi / 72
    marks = boxes.around(boxes.pixels(ax, obstacles.points), 7 * scale)
    rings = boxes.around(boxes.pixels(ax, obstacles.rings), 13 * scale)
    return [_on_line(ax, line, np.vstack([marks, rings, boxes.bars(ax, obstacles.bars)])) for line in lines]


def _on_line(ax: Axes, line: LineLabel, marks: Boxes) -> Annotation:
    look: dict[str, Any] = {"fontsize": TEXT - 1, "color": line.color, "zorder": 7}
    look["va"] = "bottom" if line.above else "top"
    at = ax.get_yaxis_transform()
    note = annotate(ax, line.text, (0, line.y), (3, 3 if line.above else -3), coords=at, **look)
    note.set_in_layout(False)
    box, width = boxes.of(note), ax.get_window_extent().width
    room = max(0.0, (width - (box[2] - box[0]) - 6) / width)
    shares = [room * i / 12 for i in range(13)]
    middle = room / 2

    def cost(share: float) -> float:
        covered = float(boxes.overlaps(boxes.moved(box, (share * width, 0.0)), marks).sum())
        return float(covered + 30 * (1 - abs(share - middle) / (middle or 1.0)))

    note.xy = (min(reversed(shares), key=cost), line.y)
    return note


def spread_right(ax: Axes, labels: Sequence[Label]) -> list[Annotation]:
    """Write the labels of line ends inside the axes, moved apart vertically; return them from bottom to top.

    The x axis is extended to the right to make room for them.
    """
    if not labels:
        return []
    figure = figure_of(ax)
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    notes = [write_label(ax, label) for label in sorted(labels, key=lambda item: item.y)]
    widest = max(note.get_window_extent().width for note in notes)
    inside = ax.get_window_extent()
    _widen(ax, share=min(0.6, (widest + 14 * scale) / inside.width))
    points = [ax.transData.transform(note.xy) for note in notes]
    heights = [note.get_window_extent().height + 2 * GAP for note in notes]
    centers = apart([float(p[1]) for p in points], heights, inside.y0, inside.y1)
    for note, point, center, height in zip(notes, points, centers, heights, strict=True):
        note.set_position((10, (center - height / 2 + GAP - point[1]) / scale))
        if note.arrow_patch is not None:
            note.arrow_patch.set_visible(abs(center - point[1]) > 4 * scale)
    return notes


def _widen(ax: Axes, share: float) -> None:
    low, high = ax.get_xlim()
    end = max(float(np.max(np.asarray(line.get_xdata(), dtype=float))) for line in ax.get_lines())
    if ax.get_xscale() == "log":
        span = math.log(end / low) / (1 - share)
        ax.set_xlim(low, max(high, low * math.exp(span)))
    else:
        ax.set_xlim(low, max(high, low + (end - low) / (1 - share)))


def apart(places: list[float], heights: list[float], low: float, high: float) -> list[float]:
    """Return centers near the given ones, in the same order, at which boxes of these heights do not overlap."""
    centers: list[float] = []
    edge = low
    for place, height in zip(places, heights, strict=True):
        centers.append(max(place, edge + height / 2))
        edge = centers[-1] + height / 2
    edge = high
    for i in range(len(centers) - 1, -1, -1):
        centers[i] = min(centers[i], edge - heights[i] / 2)
        edge = centers[i] - heights[i] / 2
    return centers
