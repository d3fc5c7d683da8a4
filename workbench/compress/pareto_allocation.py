"""Allocate a loss budget over layers along their cost-loss curves."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

Point = tuple[float, float]
"""Cost and loss of one choice for a layer; the first choice leaves the layer as it is."""


def lower_hull(points: Sequence[Point]) -> list[int]:
    """Return the indices of the points on the lower convex hull of loss over cost, from the first to the cheapest.

    Examples
    --------
    >>> lower_hull([(10.0, 0.0), (8.0, 0.5), (5.0, 0.2), (2.0, 0.9)])
    [0, 2, 3]
    """
    hull = [0]
    cheaper = [place for place in range(1, len(points)) if points[place][0] < points[0][0]]
    for place in sorted(cheaper, key=lambda place: (-points[place][0], points[place][1])):
        if points[place][0] == points[hull[-1]][0]:
            continue  # as cheap, with more loss
        while len(hull) > 1 and _slope(points[hull[-2]], points[hull[-1]]) >= _slope(points[hull[-2]], points[place]):
            hull.pop()
        hull.append(place)
    return hull


def allocate(paths: Mapping[str, Sequence[Point]], accept: Callable[[str, int], bool]) -> None:
    """Offer each layer's next choice to ``accept(name, place)``, in the order of loss per saved cost.

    A layer is dropped once a choice is not accepted. If every path is a lower convex hull, the accepted choices lose
    the least of all that save as much.
    """
    queue: list[tuple[float, int, str, int]] = []

    def push(order: int, name: str, place: int) -> None:
        path = paths[name]
        if place < len(path):
            heapq.heappush(queue, (_slope(path[place - 1], path[place]), order, name, place))

    for order, name in enumerate(paths):
        push(order, name, 1)
    while queue:
        _, order, name, place = heapq.heappop(queue)
        if accept(name, place):
            push(order, name, place + 1)


def _slope(a: Point, b: Point) -> float:
    saved = a[0] - b[0]
    return (b[1] - a[1]) / saved if saved > 0 else math.inf
