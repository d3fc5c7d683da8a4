"""Units of work: a recipe to prepare or a group to time, and the queue of those that may start."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from workbench.compress.recipe import Recipe
from workbench.study.execution.budget import TimeBudget
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import Plan, Trial
from workbench.study.storage.session import words_of

PREPARE, TIME = "prepare", "time"


@dataclass(frozen=True)
class WorkUnit:
    """A recipe to prepare, or its trials to time at one point, interleaved with the baseline.

    ``kind`` is ``"prepare"`` or ``"time"``; ``point`` is None for the former.
    """

    kind: str
    site: str
    recipe: Recipe
    point: OperatingPoint | None
    trials: tuple[Trial, ...]

    @property
    def words(self) -> str:
        """Description in a few words."""
        name = self.trials[0].name
        return f"preparing {name}" if self.kind == PREPARE else f"timing {words_of(self.trials)}"

    @property
    def artifact_key(self) -> str:
        """Key of the artifact that the unit makes or times."""
        return self.trials[0].artifact_key


class TaskQueue:
    """The open units of one kind of machine, its ``site``.

    ``trials`` are those to do; :meth:`keep` restricts them to the claimed ones. ``prepared`` are the keys of artifacts
    that exist. ``tiers`` of recipe ids come first at the other points. ``running`` are the units that have started.
    """

    def __init__(
        self, site: str, plan: Plan, trials: Sequence[Trial], budget: TimeBudget, *, prepared: Collection[str]
    ) -> None:
        self.site, self.plan, self.budget = site, plan, budget
        self.tiers: Sequence[Collection[str]] = ()
        self.tiers_at = -1
        self._float = plan.recipes[0]
        keys, recipes = {t.key for t in trials}, {t.recipe for t in trials}
        ordered = [recipe for recipe in plan.recipes if recipe in recipes]
        self._waiting: list[WorkUnit] = []
        self.running: list[WorkUnit] = []
        for recipe in dict.fromkeys([self._float, *ordered] if ordered else []):  # every group includes the baseline
            own = tuple(t for t in plan.of(recipe) if t.key in keys) or tuple(plan.of(recipe))[:1]
            if own[0].artifact_key not in prepared:
                self._waiting.append(WorkUnit(PREPARE, site, recipe, None, own))
        for point in plan.points:
            for recipe in ordered:
                group = tuple(t for t in plan.group(recipe, point) if t.key in keys)
                if group:
                    self._waiting.append(WorkUnit(TIME, site, recipe, point, group))

    @property
    def open(self) -> list[WorkUnit]:
        """Units that wait or run."""
        return [*self._waiting, *self.running]

    def ready(self, *, near: Collection[str] = ()) -> list[WorkUnit]:
        """Return the units that may start, the most useful one first.

        Timing at the primary point comes before preparing, so that the main question is answered early; other points
        come last. Of equals, one with its artifact in ``near`` comes first.
        """
        ranks = self._ranks()
        return sorted(self._free(), key=lambda unit: (self._rank(unit, ranks), unit.artifact_key not in near))

    def following(self, unit: WorkUnit) -> tuple[Trial, ...]:
        """Return the trials that are timed after a unit, whether their recipe is prepared or not."""
        ranks = self._ranks()
        groups = [other for other in self._waiting if other.kind == TIME and other != unit]
        return min(groups, key=lambda other: self._rank(other, ranks)).trials if groups else ()

    def _ranks(self) -> dict[tuple[Recipe, OperatingPoint], int]:
        return {pair: rank for rank, pair in enumerate(self.plan.rest(self.plan.recipes, tiers=self.tiers))}

    def _rank(self, unit: WorkUnit, ranks: Mapping[tuple[Recipe, OperatingPoint], int]) -> tuple[int, int]:
        if unit.point is None:
            return 1, 0
        return (0, 0) if unit.point == self.plan.primary else (2, ranks[unit.recipe, unit.point])

    def start(self, unit: WorkUnit) -> None:
        """Move a unit to the running ones."""
        self._waiting.remove(unit)
        self.running.append(unit)

    def back(self, unit: WorkUnit) -> None:
        """Put a running unit back, before the others of its kind."""
        self.running.remove(unit)
        self._waiting.insert(0, unit)

    def end(self, unit: WorkUnit) -> None:
        """Remove a unit that is done or given up."""
        (self.running if unit in self.running else self._waiting).remove(unit)

    def drop(self, recipe: Recipe) -> None:
        """Remove the waiting units of a recipe."""
        self._waiting = [unit for unit in self._waiting if unit.recipe != recipe]

    def keep(self, recipe: Recipe, trials: Collection[Trial]) -> None:
        """Restrict the waiting timings of a recipe to some trials."""
        units = []
        for unit in self._waiting:
            own = tuple(trial for trial in unit.trials if trial in trials)
            if unit.recipe != recipe or own == unit.trials:
                units.append(unit)
            elif own:
                units.append(replace(unit, trials=own))
        self._waiting = units

    def _free(self) -> list[WorkUnit]:
        """Return units whose needs are met: artifacts, the baseline's own row, and the quality of the recipe."""
        unmade = {unit.recipe for unit in self.open if unit.kind == PREPARE}
        untimed = {(unit.recipe, unit.point) for unit in self.open if unit.kind == TIME}
        primary = self.plan.primary
        return [
            unit
            for unit in self._waiting
            if unit.kind == PREPARE
            or (
                not unmade & {unit.recipe, self._float}
                and (unit.recipe == self._float or (self._float, unit.point) not in untimed)
                and (unit.point == primary or (unit.recipe, primary) not in untimed)
            )
        ]
