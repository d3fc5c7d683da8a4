"""The time budget of a run: which units still fit, and how long a group is timed."""

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
"""Guess for a training without a limit, until a training of its kind was measured."""
_SHARE_S = (1.0, 6.0)


class TimeBudget:
    """Estimates the time of what is left from what was done; ``parallel`` groups can be timed at once."""

    rounds = (6, 20)
    block_s = 0.06

    def __init__(self, plan: Plan, stop: CancelToken, *, parallel: int = 1) -> None:
        self._stop, self._parallel = stop, max(1, parallel)
        self._epoch_s: dict[str, float] = {}
        self._cached: set[Recipe] = set()
        self._unprepared = {recipe: self.prepare_s(recipe) for recipe in plan.recipes}
        self._groups = {True: len(plan.recipes), False: len(plan.recipes) * len(plan.others)}
        self._group_s = {True: 7.0, False: 4.0}  # of a recipe's first group, and of a further one

    def prepare_s(self, recipe: Recipe) -> float:
        """Estimate the seconds of preparing a recipe: trainings and export.

        A training takes the epoch time of others of its kind, at most its own limit. Prefixes of recipes that were
        prepared in this run are cached, and take nothing.
        """
        cached = sum(prefix in self._cached for prefix in _prefixes(recipe))
        seconds = EXPORT_S if recipe.steps else EXPORT_S / 2
        return seconds + sum(self._training_s(step) for step in recipe.steps[cached:])

    def _training_s(self, step: Step) -> float:
        epochs: float = getattr(step, "qat_epochs", getattr(step, "epochs", 0.0))
        limit, epoch_s = getattr(step, "max_seconds", None), self._epoch_s.get(type(step).__name__)
        if epochs <= 0:
            return 0.0
        if epoch_s is None:
            return float(limit or TRAINING_S)
        return min(epochs * epoch_s, limit or epochs * epoch_s)

    def learn(self, recipe: Recipe, steps: Sequence[Mapping[str, Any]]) -> None:
        """Record the epoch times of a prepared recipe from its step reports, and its cached prefixes."""
        for report in steps:
            if report["epochs_done"]:
                self._epoch_s[report["step"]["step"]] = report["seconds"] / report["epochs_done"]
        self._cached |= set(_prefixes(recipe))

    def add(self, recipe: Recipe) -> None:
        """Count one more recipe that is to be prepared, and timed once."""
        self._unprepared[recipe] = self.prepare_s(recipe)
        self._groups[True] += 1

    def fits(self, recipe: Recipe, *, prepared: bool) -> bool:
        """Return True if preparing a recipe and timing it once still fits."""
        needed = self._group_s[True] + (0.0 if prepared else self.prepare_s(recipe))
        return self._stop.remaining() >= needed

    def group_fits(self) -> bool:
        """Return True if one more group at another point still fits."""
        return self._stop.remaining() >= self._group_s[False]

    def share_s(self) -> float:
        """Return the seconds for timing the next group: an equal share of the time that everything else leaves."""
        groups = sum(self._groups.values())
        overhead = sum(max(0.0, self._group_s[kind] - _SHARE_S[0]) * n for kind, n in self._groups.items())
        free = self._parallel * self._stop.remaining() - sum(self._unprepared.values()) - overhead
        return min(max(free / max(groups, 1), _SHARE_S[0]), _SHARE_S[1])

    def prepared(self, recipe: Recipe) -> None:
        """Record that a recipe is prepared, or never will be."""
        self._unprepared.pop(recipe, None)

    def skip(self, *, primary: bool) -> None:
        """Record that a group will not be timed."""
        self._groups[primary] = max(0, self._groups[primary] - 1)

    def grouped(self, seconds: float, *, primary: bool) -> None:
        """Record the time that a group took, for the next estimate."""
        self.skip(primary=primary)
        self._group_s[primary] = 0.5 * (self._group_s[primary] + seconds)


def _prefixes(recipe: Recipe) -> list[Recipe]:
    """Return the recipes that end after each step of this one."""
    return [Recipe(*recipe.steps[: n + 1], seed=recipe.seed) for n in range(len(recipe.steps))]
