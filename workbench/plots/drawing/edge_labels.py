"""Labels of horizontal lines, and of the right ends of curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from workbench.plots.drawing import boxes
from workbench.plots.drawing.boxes import Boxes
from workbench.plots.drawing.figure import TEXT, annotate, figure_of
from workbench.plots.drawing.labels import GAP, Label, Obstacles, write_label


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
