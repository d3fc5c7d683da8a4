"""Words at the edges of a chart: on horizontal lines, and at the right ends of curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from workbench.plots.drawing import boxes
from workbench.plots.drawing.boxes import Boxes
from workbench.plots.drawing.figure import TEXT, figure_of
from workbench.plots.drawing.labels import GAP, Label, Obstacles, write_label


@dataclass(frozen=True)
class LineWords:
    """Words for a horizontal line at ``y`` in data units, to stand above or below it."""

    words: str
    y: float
    colour: str
    above: bool


def place_on_lines(ax: Axes, lines: Sequence[LineWords], obstacles: Obstacles) -> list[Annotation]:
    """Write the words of horizontal lines where they cover the fewest marks, near an end if there is a choice.

    The figure's layout must be settled.
    """
    scale = figure_of(ax).dpi / 72
    marks = boxes.around(boxes.pixels(ax, obstacles.points), 7 * scale)
    rings = boxes.around(boxes.pixels(ax, obstacles.rings), 13 * scale)
    return [_on_line(ax, line, np.vstack([marks, rings, boxes.bars(ax, obstacles.bars)])) for line in lines]


def _on_line(ax: Axes, line: LineWords, marks: Boxes) -> Annotation:
    note = ax.annotate(
        line.words,
        (0, line.y),
        (3, 3 if line.above else -3),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="bottom" if line.above else "top",
        fontsize=TEXT - 1,
        color=line.colour,
        zorder=7,
    )
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
    """Write labels of line ends in the right half of the axes, moved up and down until none touches another.

    The axis is widened to the right, so that the words stand inside it. Returns them from bottom to top.
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
    centres = apart([float(p[1]) for p in points], heights, inside.y0, inside.y1)
    for note, point, centre, height in zip(notes, points, centres, heights, strict=True):
        note.set_position((10, (centre - height / 2 + GAP - point[1]) / scale))
        if note.arrow_patch is not None:
            note.arrow_patch.set_visible(abs(centre - point[1]) > 4 * scale)
    return notes


def _widen(ax: Axes, share: float) -> None:
    low, high = ax.get_xlim()
    ends = [float(np.max(np.asarray(line.get_xdata(), dtype=float))) for line in ax.get_lines()]
    end = max(ends)
    if ax.get_xscale() == "log":
        span = math.log(end / low) / (1 - share)
        ax.set_xlim(low, max(high, low * math.exp(span)))
    else:
        ax.set_xlim(low, max(high, low + (end - low) / (1 - share)))


def apart(wanted: list[float], heights: list[float], low: float, high: float) -> list[float]:
    """Return centres near the wanted ones, in the same order, such that boxes of these heights do not overlap."""
    centres: list[float] = []
    edge = low
    for want, height in zip(wanted, heights, strict=True):
        centres.append(max(want, edge + height / 2))
        edge = centres[-1] + height / 2
    edge = high
    for i in range(len(centres) - 1, -1, -1):
        centres[i] = min(centres[i], edge - heights[i] / 2)
        edge = centres[i] - heights[i] / 2
    return centres
