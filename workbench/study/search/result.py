"""What a search returns."""

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
    """What a search found.

    Attributes
    ----------
    best : Best
        Exactly one row and the reason why it is recommended; or, with ``met`` False, the nearest miss and the plain
        statement that nothing met the goals.
    nearest : dict
        Where nothing met them: for each goal the row that comes nearest to it among those that hold all others.
    history : History
        Every point that was tried, in order.
    new, reused : int
        Trials that were done in this call, and points that a kept row answered.
    ended : str
        Why the search ended.
    notes : tuple of str
        What a reader must know, such as that the float model seems to have been trained on the validation split.
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
        found = counts(self.history.trials)
        parts = [f"{found['complete']} timed"]
        parts += [f"{found[state]} {state}" for state in ("pruned", "failed") if found[state]]
        text = f"points: {', '.join(parts)}; {self.new} trials done now in {self.seconds:.0f} s; it ended: {self.ended}"
        return "\n  ".join([f"SearchResult({text})", self.best.reason, *(f"note: {note}" for note in self.notes)])

    def frame(self) -> pd.DataFrame:
        """Return a row for each point that was tried; see :meth:`History.frame`."""
        return self.history.frame()
