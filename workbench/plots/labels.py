"""Greedy placement of point labels: never on each other, never outside the axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from workbench.plots.canvas import TEXT, figure_of
from workbench.plots.style import INK, MUTED

DISTANCES = (13, 20, 30, 44, 62, 84, 110, 140)  # points from mark to the label's nearest edge
ANGLES = (0, 180, 45, 135, 315, 225, 90, 270, 22, 158, 338, 202, 67, 113, 293, 247)
LEADER_FROM = 20  # a label farther away than this gets a thin line to its mark
GAP = 2.0  # pixels kept free around a label


@dataclass(frozen=True)
class Label:
    """Words for the point (x, y) in data units; an essential one is kept even where no free place is left."""

    words: str
    x: float
    y: float
    bold: bool = False
    essential: bool = False
    clear: float = 5.0  # points between the mark's centre and the end of the leader line
    colour: str = INK


@dataclass
class Obstacles:
    """What labels keep clear of, in data units: marks, bars (x0, y0, x1, y1), and texts already on the axes.

    ``rings`` are marks that no label may touch at all; ``lines`` is one polyline.
    """

    rings: list[tuple[float, float]] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float]] = field(default_factory=list)
    lines: list[tuple[float, float]] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)


def place_labels(ax: Axes, labels: Sequence[Label], obstacles: Obstacles) -> list[Annotation]:
    """Write each label at the cheapest free place near its point; returns those written, in the order given.

    The order is the priority. A label for which every place is taken by another label is left out, unless it is
    essential; then it takes the place that covers least.
    """
    figure = figure_of(ax)
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    inside = ax.get_window_extent()
    hard = [text.get_window_extent() for text in obstacles.texts]
    hard += [around(ax, x, y, 12 * scale) for x, y in obstacles.rings]
    soft = [around(ax, x, y, 6 * scale) for x, y in obstacles.points] + bar_boxes(ax, obstacles.bars)
    path = [around(ax, x, y, 2 * scale) for x, y in _dense(ax, obstacles.lines)]
    written = []
    for label in labels:
        note = write_label(ax, label)
        box = note.get_window_extent()
        point = ax.transData.transform((label.x, label.y))
        place = _cheapest(box, point, label.clear, scale, inside, hard, soft, path)
        if place is None and not label.essential:
            note.remove()
            continue
        shift, taken, distance = place or _fallback(box, point, inside, hard)
        note.set_position((shift[0] / scale, shift[1] / scale))
        if distance <= LEADER_FROM and note.arrow_patch is not None:
            note.arrow_patch.set_visible(False)
        hard.append(taken)
        if distance > LEADER_FROM:
            hard += _leader(taken, point, label.clear * scale)
        written.append(note)
    return written


def write_label(ax: Axes, label: Label) -> Annotation:
    """Write a label with a leader line to its point, to be moved to its place."""
    note = ax.annotate(
        label.words,
        (label.x, label.y),
        (0, 0),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=TEXT - 0.5,
        fontweight="bold" if label.bold else "normal",
        color=label.colour,
        zorder=8,
        linespacing=1.15,
        bbox={"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 0, "shrinkB": label.clear},
    )
    note.set_in_layout(False)
    return note


def around(ax: Axes, x: float, y: float, radius: float) -> Bbox:
    """Return the box of ``radius`` pixels around a point in data units."""
    px, py = ax.transData.transform((x, y))
    return Bbox.from_extents(px - radius, py - radius, px + radius, py + radius)


def bar_boxes(ax: Axes, bars: Iterable[tuple[float, float, float, float]]) -> list[Bbox]:
    """Return the boxes in pixels of bars (x0, y0, x1, y1) in data units."""
    boxes = []
    for x0, y0, x1, y1 in bars:
        (ax0, ay0), (ax1, ay1) = ax.transData.transform([(x0, y0), (x1, y1)])
        boxes.append(Bbox.from_extents(min(ax0, ax1) - 1, min(ay0, ay1) - 1, max(ax0, ax1) + 1, max(ay0, ay1) + 1))
    return boxes


def _dense(ax: Axes, line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points along a polyline, about 8 pixels apart."""
    points = []
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        a, b = ax.transData.transform([(x0, y0), (x1, y1)])
        count = max(1, int(math.dist(a, b) / 8))
        for i in range(count + 1):
            x, y = ax.transData.inverted().transform(a + (b - a) * i / count)
            points.append((float(x), float(y)))
    return points


def overlap(a: Bbox, b: Bbox) -> float:
    """Return the area that two boxes share."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def moved_by(box: Bbox, dx: float, dy: float) -> Bbox:
    """Return the box moved by so many pixels."""
    return Bbox.from_extents(box.x0 + dx, box.y0 + dy, box.x1 + dx, box.y1 + dy)


Place = tuple[tuple[float, float], Bbox, float]


def _cheapest(
    box: Bbox,
    point: Any,
    clear: float,
    scale: float,
    inside: Bbox,
    hard: list[Bbox],
    soft: list[Bbox],
    path: list[Bbox],
) -> Place | None:
    best: tuple[float, Place] | None = None
    for distance in DISTANCES:
        for turn, angle in enumerate(ANGLES):
            shift = _shift(box, distance * scale, math.radians(angle))
            moved = moved_by(box, point[0] + shift[0] - box.x0, point[1] + shift[1] - box.y0)
            if not _within(moved, inside) or _touches(moved.padded(GAP), hard):
                continue
            if distance > LEADER_FROM and any(_touches(bit, hard) for bit in _leader(moved, point, clear * scale)):
                continue
            covered = sum(overlap(moved, other) for other in soft) + 0.3 * sum(overlap(moved, p) for p in path)
            cost = covered * 6 + distance * 3 + turn * 0.6
            if best is None or cost < best[0]:
                best = cost, (shift, moved.padded(GAP), distance)
    return best[1] if best else None


def _touches(box: Bbox, others: list[Bbox]) -> bool:
    return any(overlap(box, other) > 0 for other in others)


def _leader(box: Bbox, point: Any, clear: float) -> list[Bbox]:
    """Return small boxes along the line from a label's centre to its mark, without its ends."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    bits = []
    for i in range(1, 24):
        px, py = x + (point[0] - x) * i / 24, y + (point[1] - y) * i / 24
        bit = Bbox.from_extents(px - 1, py - 1, px + 1, py + 1)
        if math.dist((px, py), point) > clear + 4 and not overlap(bit, box.padded(3)):
            bits.append(bit)
    return bits


def _shift(box: Bbox, distance: float, angle: float) -> tuple[float, float]:
    """Return where the label's lower left corner goes, seen from the point, in pixels."""
    cos, sin = math.cos(angle), math.sin(angle)
    x = cos * distance + (0 if cos > 0.3 else -box.width if cos < -0.3 else -box.width / 2)
    y = sin * distance + (0 if sin > 0.3 else -box.height if sin < -0.3 else -box.height / 2)
    return x, y


def _within(box: Bbox, inside: Bbox) -> bool:
    across = box.x0 >= inside.x0 and box.x1 <= inside.x1
    return bool(across and box.y0 >= inside.y0 and box.y1 <= inside.y1)


def _fallback(box: Bbox, point: Any, inside: Bbox, hard: list[Bbox]) -> Place:
    """Return the place on a coarse grid over the axes that covers the least of other labels."""
    best: tuple[float, Place] | None = None
    for i in range(21):
        for j in range(21):
            x = inside.x0 + max(0.0, inside.width - box.width) * i / 20
            y = inside.y0 + max(0.0, inside.height - box.height) * j / 20
            moved = moved_by(box, x - box.x0, y - box.y0)
            away = math.dist((moved.x0, moved.y0), point)
            cost = sum(overlap(moved, other) for other in hard) * 10 + away
            if best is None or cost < best[0]:
                best = cost, ((x - point[0], y - point[1]), moved, away)
    if best is None:
        raise ValueError("The axes has no extent.")
    return best[1]
