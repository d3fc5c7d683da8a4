"""The result of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.study.results.ranking import Recommendation
from workbench.study.results.schema import TrialRow
from workbench.study.search.history import History, counts

if TYPE_CHECKING:
    import pandas as pd


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
