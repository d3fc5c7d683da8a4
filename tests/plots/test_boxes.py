"""Boxes as arrays, against matplotlib's own and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.transforms import Bbox

from workbench.plots.drawing import boxes


def test_overlaps_agree_with_matplotlib() -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 10, (40, 2))
    found = np.hstack([corners, corners + rng.uniform(0.1, 4, (40, 2))])
    one = found[0]
    for area, other in zip(boxes.overlaps(one, found), found, strict=True):
        shared = Bbox.intersection(Bbox.from_extents(*one), Bbox.from_extents(*other))
        assert area == pytest.approx(0.0 if shared is None else shared.width * shared.height)


def test_moved_padded_and_inside() -> None:
    box = np.array([1.0, 2.0, 4.0, 6.0])
    assert boxes.moved(box, (10, -1)).tolist() == [11, 1, 14, 5]
    assert boxes.padded(box, 1.0).tolist() == [0, 1, 5, 7]
    assert boxes.inside(box, boxes.padded(box, 0.0))
    assert not boxes.inside(boxes.padded(box, 0.1), box)
    assert boxes.around(np.array([3.0, 3.0]), 2.0).tolist() == [[1, 1, 5, 5]]


def test_points_along_a_line_are_close_together() -> None:
    found = boxes.along(np.array([[0.0, 0.0], [0.0, 80.0], [30.0, 80.0]]), 8.0)
    gaps = np.hypot(*np.diff(found, axis=0).T)
    assert found[0].tolist() == [0, 0] and found[-1].tolist() == [30, 80]
    assert gaps.min() > 7.9 and gaps.max() < 16
    assert boxes.along(np.zeros((0, 2)), 8.0).shape == (0, 2)
