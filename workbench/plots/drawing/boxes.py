"""Boxes in pixels as rows (x0, y0, x1, y1) of an array, for the placement of labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

Boxes = npt.NDArray[np.float64]
"""One box [4], or several [n, 4]."""


def none() -> Boxes:
    """Return no boxes, [0, 4]."""
    return np.zeros((0, 4))


def of(thing: Text | Bbox) -> Boxes:
    """Return the box [4] of a text or of an extent."""
    extent = thing.get_window_extent() if isinstance(thing, Text) else thing
    return np.array([extent.x0, extent.y0, extent.x1, extent.y1])


def around(points: Boxes, radius: float) -> Boxes:
    """Return the boxes [n, 4] of ``radius`` around points [n, 2], both in pixels."""
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    return np.hstack([points - radius, points + radius])


def padded(box: Boxes, gap: float) -> Boxes:
    """Return boxes that are larger by ``gap`` on every side."""
    return np.asarray(box + np.array([-gap, -gap, gap, gap]))


def moved(box: Boxes, shift: Sequence[float] | Boxes) -> Boxes:
    """Return boxes moved by (dx, dy)."""
    return np.asarray(box + np.array([shift[0], shift[1], shift[0], shift[1]]))


def overlaps(box: Boxes, others: Boxes) -> Boxes:
    """Return the area that ``box`` [4] shares with each of ``others`` [n, 4]."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    return np.asarray(np.prod(np.maximum(high - low, 0.0), axis=1))


def inside(box: Boxes, frame: Boxes) -> bool:
    """Return whether ``box`` [4] lies within ``frame`` [4]."""
    return bool((box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all())


def pixels(ax: Axes, points: Iterable[tuple[float, float]]) -> Boxes:
    """Return points in data units as pixels [n, 2]."""
    data = np.array(list(points), dtype=float).reshape(-1, 2)
    return np.asarray(ax.transData.transform(data), dtype=float).reshape(-1, 2)


def bars(ax: Axes, ends: Iterable[tuple[float, float, float, float]]) -> Boxes:
    """Return the boxes of bars (x0, y0, x1, y1) in data units, a pixel wider on every side."""
    corners = np.array(list(ends), dtype=float).reshape(-1, 2, 2)
    if not len(corners):
        return none()
    ends_px = np.asarray(ax.transData.transform(corners.reshape(-1, 2))).reshape(-1, 2, 2)
    return padded(np.hstack([ends_px.min(axis=1), ends_px.max(axis=1)]), 1.0)


def along(points: Boxes, step: float) -> Boxes:
    """Return points [n, 2] every ``step`` pixels or so along a polyline [m, 2] in pixels."""
    parts = [points[:1]]
    for a, b in itertools.pairwise(points):
        count = max(1, int(np.hypot(*(b - a)) / step))
        parts.append(a + (b - a) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(parts) if len(points) else points.reshape(0, 2)
