"""What a search has tried, in order: a record for each point that was proposed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.study.search.goals import Objective

if TYPE_CHECKING:
    import pandas as pd

COMPLETE, PRUNED, FAILED, INTERRUPTED = "complete", "pruned", "failed", "interrupted"


@dataclass(frozen=True)
class TrialRecord:
    """One proposed point.

    ``state`` is complete, pruned (not timed: hopeless), failed, or interrupted (a cancel or a kill: it is proposed
    again; or the time left was too short for it, as ``reason`` then says).
    ``values`` are the figures of the question as the search saw them, ``excess`` how far each goal was missed
    as a share of its limit (0 or below: held), ``reused`` True where the row was there already, ``elapsed_s`` the
    seconds of searching until then, those of interrupted calls included.
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
        """True where it was timed and no goal is known to be missed."""
        return self.state == COMPLETE and all(beyond <= 0 for beyond in self.excess.values())


@dataclass(frozen=True)
class History:
    """All that one search has tried, earlier calls included; ``name`` is that of its study in Optuna's tables."""

    name: str
    objective: Objective
    trials: tuple[TrialRecord, ...]

    def best_so_far(self) -> list[float | None]:
        """Return after each point the best value of the first figure among those that hold the goals."""
        better = max if self.objective.directions[0] == "maximize" else min
        best: float | None = None
        found = []
        for one in self.trials:
            if one.holds and one.values:
                best = one.values[0] if best is None else better(best, one.values[0])
            found.append(best)
        return found

    def frame(self) -> pd.DataFrame:
        """Return a row for each point: number, state, seconds, what it was, figures, drop, best so far, parameters."""
        import pandas as pd

        figures = self.objective.figures
        rows = [
            {
                "number": one.number,
                "state": one.state,
                "elapsed_s": one.elapsed_s,
                "recipe": one.recipe,
                "technique": one.technique,
                "backend": one.backend,
                "batch_size": one.batch_size,
                **dict(zip(figures, one.values or [None] * len(figures), strict=True)),
                "validation_drop": one.validation_drop,
                "holds": one.holds,
                "best_so_far": best,
                "reused": one.reused,
                "reason": one.reason,
                "trial_key": one.trial_key,
                **{f"param {name}": value for name, value in one.params.items()},
            }
            for one, best in zip(self.trials, self.best_so_far(), strict=True)
        ]
        numbers = [*figures, "validation_drop", "best_so_far"]
        if not rows:
            return pd.DataFrame(columns=["number", "state", "elapsed_s", *numbers, "holds", "reason"])
        return pd.DataFrame(rows).astype(dict.fromkeys(dict.fromkeys(numbers), float))


def counts(tried: Iterable[TrialRecord]) -> dict[str, int]:
    """Return how many different points ended how; a point that came back counts once."""
    found: dict[str, dict[str, None]] = {COMPLETE: {}, PRUNED: {}, FAILED: {}}
    for one in tried:
        if one.state in found:
            found[one.state][one.trial_key or f"number {one.number}"] = None
    return {state: len(keys) for state, keys in found.items()}


def distinct(tried: Sequence[TrialRecord]) -> int:
    """Return how many different points have ended."""
    return sum(counts(tried).values())
