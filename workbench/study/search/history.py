"""The result of a search, and its history: a record of each proposed point, in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.study.results.ranking import Recommendation
from workbench.study.results.schema import TrialRow
from workbench.study.search.goals import Objective

if TYPE_CHECKING:
    import pandas as pd

_FIRST = ("number", "state", "elapsed_s", "recipe", "technique", "backend", "batch_size")
"""Columns of the frame before the figures."""
COMPLETE, PRUNED, FAILED, INTERRUPTED = "complete", "pruned", "failed", "interrupted"


@dataclass(frozen=True)
class TrialRecord:
    """One proposed point.

    ``state`` is complete, pruned (not timed), failed, or interrupted (cancelled, killed, or too long for the time
    left). ``values`` are the objective's figures on the validation split, ``excess`` the violation of each goal as a
    share of its limit (0 or below: met). ``reused`` is True if the row existed already. ``elapsed_s`` includes
    interrupted calls.
    """

    number: int
    state: str
    trial_key: str | None
    recipe: str | None
    backend: str | None
    batch_size: int | None
    params: dict[str, Any]
    values: tuple[float, ...] | None
    validation_drop: float | None
    excess: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    technique: str | None = None
    reused: bool = False
    elapsed_s: float = 0.0

    @property
    def holds(self) -> bool:
        """True if it was timed and met all goals."""
        return self.state == COMPLETE and all(excess <= 0 for excess in self.excess.values())


@dataclass(frozen=True)
class History:
    """All points of one search, with those of earlier calls; ``name`` is that of its Optuna study."""

    name: str
    objective: Objective
    trials: tuple[TrialRecord, ...]

    def best_so_far(self) -> list[float | None]:
        """Return after each point the best value of the first figure among the points that meet the goals."""
        better = max if self.objective.directions[0] == "maximize" else min
        best: float | None = None
        curve = []
        for one in self.trials:
            if one.holds and one.values:
                best = one.values[0] if best is None else better(best, one.values[0])
            curve.append(best)
        return curve

    def frame(self) -> pd.DataFrame:
        """Return a row for each point: number, state, seconds, recipe, figures, drop, best so far, parameters."""
        import pandas as pd

        figures = self.objective.figures
        numbers = [*figures, "validation_drop", "best_so_far"]
        if not self.trials:
            return pd.DataFrame(columns=["number", "state", "elapsed_s", *numbers, "holds", "reason"])
        rows = [
            {
                **{name: getattr(one, name) for name in _FIRST},
                **dict(zip(figures, one.values or [None] * len(figures), strict=True)),
                "validation_drop": one.validation_drop,
                "holds": one.holds,
                "best_so_far": best,
                **{name: getattr(one, name) for name in ("reused", "reason", "trial_key")},
                **{f"param {name}": value for name, value in one.params.items()},
            }
            for one, best in zip(self.trials, self.best_so_far(), strict=True)
        ]
        return pd.DataFrame(rows).astype(dict.fromkeys(dict.fromkeys(numbers), float))


def counts(records: Iterable[TrialRecord]) -> dict[str, int]:
    """Return the number of distinct points by state."""
    keys: dict[str, set[str]] = {COMPLETE: set(), PRUNED: set(), FAILED: set()}
    for one in records:
        if one.state in keys:
            keys[one.state].add(one.trial_key or f"number {one.number}")
    return {state: len(distinct) for state, distinct in keys.items()}


@dataclass(frozen=True)
class SearchResult:
    """The result of ``Study.search``.

    Attributes
    ----------
    best : Best
        One row and the reason; with ``met`` False, the closest miss.
    nearest : dict
        If no row met the goals: for each goal the closest row among those that meet all others.
    history : History
        Every point, in order.
    new, reused : int
        Trials run in this call, and points whose row existed.
    ended : str
        Reason for the end of the search.
    notes : tuple of str
        Warnings, such as possible leakage of the validation split into the float model.
    """

    best: Recommendation
    nearest: dict[str, TrialRow]
    history: History
    new: int
    reused: int
    ended: str
    cancelled: bool
    seconds: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        states = counts(self.history.trials)
        parts = [f"{states['complete']} timed"]
        parts += [f"{states[state]} {state}" for state in ("pruned", "failed") if states[state]]
        text = f"points: {', '.join(parts)}; {self.new} trials run now in {self.seconds:.0f} s; ended: {self.ended}"
        return "\n  ".join([f"SearchResult({text})", self.best.reason, *(f"note: {note}" for note in self.notes)])

    def frame(self) -> pd.DataFrame:
        """Return a row for each point; see :meth:`History.frame`."""
        return self.history.frame()
