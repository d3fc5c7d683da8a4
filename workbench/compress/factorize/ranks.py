"""Choose ranks by energy, by ratio, by variational Bayes (VBMF), or by a budget for the whole model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.compress.factorize.decomposition import Decomposition, Floats, RankChoice, RankTable
from workbench.compress.pareto_allocation import Point, allocate, lower_hull

_ROUNDING = 1e-9


def by_energy(tables: Sequence[RankTable], energy: float, of: str) -> RankChoice:
    """Return the cheapest choice in ``of`` (MACs or parameters) that keeps a fraction ``energy``."""
    choices = []
    for table in tables:
        cost = np.where(table.kept >= energy - _ROUNDING, getattr(table, of), np.inf)
        choices.append(table.at(int(np.lexsort((-table.kept, cost))[0])))
    return min(choices, key=lambda choice: (getattr(choice, of), -choice.kept))


def by_ratio(tables: Sequence[RankTable], ratio: float, of: str) -> RankChoice:
    """Return the choice with a fraction ``ratio`` of the full rank of the first table.

    With several tables: the cheapest choice of all that keeps as much energy.
    """
    first = tables[0].with_ranks([max(1, round(ratio * full)) for full in tables[0].full])
    return first if len(tables) == 1 else by_energy(tables, first.kept, of)


def by_noise(decompositions: Sequence[Decomposition], of: str) -> RankChoice | None:
    """Return the choice with the VBMF rank, or None if it is 0; several decompositions as in :func:`by_ratio`."""
    first = decompositions[0]
    ranks = [max(vbmf_rank(matrix.numpy()) for matrix in matrices) for matrices in first.unfolded()]
    if 0 in ranks:
        return None
    choice = first.table().with_ranks(ranks)
    if len(decompositions) == 1:
        return choice
    return by_energy([decomposition.table() for decomposition in decompositions], choice.kept, of)


def by_budget(
    tables: Mapping[str, Sequence[RankTable]], whole: Mapping[str, RankChoice], excess: float, of: str, *, least: float
) -> tuple[dict[str, RankChoice], float]:
    """Return choices for some layers that together save ``excess``, and the part of it that cannot be saved.

    Greedy over all layers by lost energy (as a fraction of the layer's) per saved cost. A choice must save at least
    ``least`` of parameters and MACs.
    """
    choices = {name: _hull(ways, whole[name], of, least) for name, ways in tables.items()}
    paths = {name: [(getattr(choice, of), 1 - choice.kept) for choice in path] for name, path in choices.items()}
    chosen: dict[str, RankChoice] = {}
    missing = excess

    def accept(name: str, place: int) -> bool:
        nonlocal missing
        if missing <= 0:
            return False
        missing -= paths[name][place - 1][0] - paths[name][place][0]
        chosen[name] = choices[name][place]
        return True

    allocate(paths, accept)
    return chosen, max(0.0, missing)


def saves(choice: RankTable | RankChoice, whole: RankChoice, least: float) -> Any:
    """Return whether a choice, or each of a table, saves a fraction ``least`` of parameters and of MACs (if any)."""
    few = choice.params <= (1 - least) * whole.params
    return few & (choice.macs <= (1 - least) * whole.macs) if whole.macs else few


def vbmf_rank(matrix: npt.ArrayLike) -> int:
    """Return the rank by empirical variational Bayes, with estimated noise variance.

    The analytic solution of Nakajima et al. (2013), Global analytic solution of fully-observed variational Bayesian
    matrix factorization, JMLR 14.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> vbmf_rank(rng.normal(size=(40, 3)) @ rng.normal(size=(3, 60)) + 0.1 * rng.normal(size=(40, 60)))
    3
    """
    values = np.asarray(matrix, dtype=np.float64)
    short, long = sorted(values.shape)
    squares = np.linalg.svd(values, compute_uv=False) ** 2
    total = float(squares.sum())
    if total == 0:
        return 0
    alpha = short / long
    root = 2.5129 * math.sqrt(alpha)  # fixed point of their equation 33, to four digits
    edge = (1 + root) * (1 + alpha / root)
    most = min(math.ceil(short / (1 + alpha)) - 1, short - 1)
    high = total / (short * long)
    low = max(squares[most] / (long * edge), float(squares[most:].mean()) / long)
    if low <= 0:  # no noise
        return int((squares > squares[0] * 1e-20).sum())
    # exact zeros have no logarithm
    variance = _least(np.maximum(squares, total * 1e-30) / long, alpha, edge, min(low, high), high)
    return int((squares > long * variance * edge).sum())


def _least(scaled: Floats, alpha: float, edge: float, low: float, high: float) -> float:
    """Return the noise variance in [low, high] with the least free energy, by successively finer grids."""
    for _ in range(4):
        grid = np.geomspace(low, high, 200) if high > low else np.array([low])
        best = int(np.argmin(_free_energy(scaled[None] / grid[:, None], alpha, edge)))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    return float(grid[best])


def _free_energy(ratios: Floats, alpha: float, edge: float) -> Floats:
    """Return the free energy up to constants for ``ratios [n, values]`` of the squared values to the noise."""
    energy = ratios - np.log(ratios)
    inside = ratios - (1 + alpha)
    tau = (inside + np.sqrt(np.maximum(inside**2 - 4 * alpha, 0))) / 2
    tau = np.where(ratios > edge, tau, 1.0)
    signal = np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau
    total: Floats = (energy + np.where(ratios > edge, signal, 0)).sum(axis=1)
    return total


def _hull(tables: Sequence[RankTable], whole: RankChoice, of: str, least: float) -> list[RankChoice]:
    """Return the choices on the lower convex hull of lost energy over cost, from the full layer to the cheapest."""
    points: list[Point] = [(getattr(whole, of), 0.0)]
    sources = []
    for table in tables:
        cost = getattr(table, of)
        for place in _front(cost, table.kept, saves(table, whole, least)):
            points.append((float(cost[place]), 1 - float(table.kept[place])))
            sources.append((table, int(place)))
    tables_at = [sources[place - 1] for place in lower_hull(points)[1:]]
    return [whole, *(table.at(place) for table, place in tables_at)]


def _front(cost: Floats, kept: Floats, fits: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return the places that fit and are Pareto-optimal in cost and kept energy."""
    places = np.flatnonzero(fits)
    places = places[np.lexsort((-kept[places], cost[places]))]
    best = np.maximum.accumulate(np.concatenate([[-np.inf], kept[places]]))[:-1]
    return places[kept[places] > best]
