"""Time: what still fits into the budget, and how long the timing of a group may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step
from workbench.study.plan.trials import Plan
from workbench.study.workers.process import CancelToken

EXPORT_S = 5.0
"""Estimate of the export and the loading of one variant."""
TRAINING_S = 60.0
"""Guess for a training step without a limit of its own, until one of its kind has told how long an epoch takes."""
_ROUNDS = (6, 20)
_BLOCK_S = 0.06
_SHARE_S = (1.0, 6.0)
_FIRST_S = {True: 7.0, False: 4.0}


class TimeBudget:
    """Knows the deadline, what was planned, and how long things took so far."""

    rounds = _ROUNDS
    block_s = _BLOCK_S
    benches = 1
    """Groups that may be timed at the same moment: hosts of a cluster."""

    def __init__(self, plan: Plan, stop: CancelToken) -> None:
        self._stop = stop
        self._epoch_s: dict[str, float] = {}
        self._known: set[Recipe] = set()
        self._unprepared = {recipe: self.prepare_s(recipe) for recipe in plan.recipes}
        self._groups = {True: len(plan.recipes), False: len(plan.recipes) * len(plan.others)}
        self._group_s = dict(_FIRST_S)
        self._timed_s = 0.0

    def prepare_s(self, recipe: Recipe) -> float:
        """Estimate of the seconds that preparing a recipe takes: its trainings and the export.

        A training takes what others of its kind took for an epoch, and no longer than its own limit. Beginnings of
        recipes that were prepared in this run are kept, and take nothing.
        """
        known = sum(1 for beginning in _beginnings(recipe) if beginning in self._known)
        seconds = EXPORT_S if recipe.steps else EXPORT_S / 2
        return seconds + sum(self._training_s(step) for step in recipe.steps[known:])

    def _training_s(self, step: Step) -> float:
        epochs: float = getattr(step, "qat_epochs", getattr(step, "epochs", 0.0))
        limit, epoch_s = getattr(step, "max_seconds", None), self._epoch_s.get(type(step).__name__)
        if epochs <= 0:
            return 0.0
        if epoch_s is None:
            return float(limit or TRAINING_S)
        return min(epochs * epoch_s, limit or epochs * epoch_s)

    def learn(self, recipe: Recipe, steps: Sequence[Mapping[str, Any]]) -> None:
        """Note what the reports of a prepared recipe's steps tell: how long an epoch took, and what is kept now."""
        for report in steps:
            if report["epochs_done"]:
                self._epoch_s[report["step"]["step"]] = report["seconds"] / report["epochs_done"]
        self._known |= set(_beginnings(recipe))

    def add(self, recipe: Recipe) -> None:
        """Count one more recipe that is to be prepared, and timed once."""
        self._unprepared[recipe] = self.prepare_s(recipe)
        self._groups[True] += 1

    def fits(self, recipe: Recipe, *, prepared: bool) -> bool:
        """Say whether preparing a recipe and timing it once still fits."""
        needed = self._group_s[True] + (0.0 if prepared else self.prepare_s(recipe))
        return self._stop.remaining() >= needed

    def group_fits(self) -> bool:
        """Say whether one more group at another batch size still fits."""
        return self._stop.remaining() >= self._group_s[False]

    def share_s(self) -> float:
        """Seconds that the next group may spend in timing: an equal share of what is left after everything else."""
        left = sum(self._groups.values())
        overhead = sum(max(0.0, self._group_s[kind] - _SHARE_S[0]) * n for kind, n in self._groups.items())
        free = self.benches * self._stop.remaining() - sum(self._unprepared.values()) - overhead
        return min(max(free / max(left, 1), _SHARE_S[0]), _SHARE_S[1])

    def prepared(self, recipe: Recipe) -> None:
        """Note that a recipe is prepared, or never will be."""
        self._unprepared.pop(recipe, None)

    def skip(self, *, primary: bool) -> None:
        """Note that a group will not be timed."""
        self._groups[primary] = max(0, self._groups[primary] - 1)

    def grouped(self, seconds: float, *, primary: bool) -> None:
        """Note how long a group took, so that the next estimate is better."""
        self._groups[primary] = max(0, self._groups[primary] - 1)
        self._group_s[primary] = 0.5 * (self._group_s[primary] + seconds)


def _beginnings(recipe: Recipe) -> list[Recipe]:
    """Return the recipes that end after each step of this one."""
    return [Recipe(*recipe.steps[: n + 1], seed=recipe.seed) for n in range(len(recipe.steps))]
