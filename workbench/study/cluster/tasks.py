"""Units of work: one recipe prepared, or timed at one point beside the baseline, and which of them may start now."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from workbench.compress.recipe import Recipe
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import Plan, Trial
from workbench.study.storage.session import words_of

PREPARE, TIME = "prepare", "time"


@dataclass(frozen=True)
class WorkUnit:
    """What one worker does at a time. Its comparison lies within it: the baseline is timed in turns with ``trials``.

    ``kind`` is ``"prepare"`` or ``"time"``, ``point`` None for the former.
    """

    kind: str
    site: str
    recipe: Recipe
    point: OperatingPoint | None
    trials: tuple[Trial, ...]

    @property
    def words(self) -> str:
        """The unit in words."""
        name = self.trials[0].name
        return f"preparing {name}" if self.kind == PREPARE else f"timing {words_of(self.trials)}"

    @property
    def artifact_key(self) -> str:
        """Key of the artefact that it makes or times."""
        return self.trials[0].artifact_key


class TaskQueue:
    """The units of one kind of machine that are not done.

    Parameters
    ----------
    plan : Plan
        The whole plan for this kind of machine.
    trials : sequence of Planned
        Those of it that this run has claimed.
    prepared : collection of str
        Artefact keys that are there already.
    """

    def __init__(self, site: str, plan: Plan, trials: Sequence[Trial], *, prepared: Collection[str]) -> None:
        self.plan, self.site = plan, site
        self._float = plan.recipes[0]
        keys, recipes = {t.key for t in trials}, {t.recipe for t in trials}
        wanted = [recipe for recipe in plan.recipes if recipe in recipes]
        self._waiting: list[WorkUnit] = []
        for recipe in dict.fromkeys([self._float, *wanted] if wanted else []):  # the baseline stands beside them all
            own = tuple(t for t in plan.of(recipe) if t.key in keys) or tuple(plan.of(recipe))[:1]
            if own[0].artifact_key not in prepared:
                self._waiting.append(WorkUnit(PREPARE, site, recipe, None, own))
        for point in plan.points:
            for recipe in wanted:
                group = tuple(t for t in plan.group(recipe, point) if t.key in keys)
                if group:
                    self._waiting.append(WorkUnit(TIME, site, recipe, point, group))
        self._running: list[WorkUnit] = []

    @property
    def open(self) -> list[WorkUnit]:
        """Units that wait or run."""
        return [*self._waiting, *self._running]

    def ready(self, *, first: Sequence[Collection[str]] = (), near: Collection[str] = ()) -> list[WorkUnit]:
        """Return what may start now, in the order in which it is worth doing.

        Timing at the primary point comes before preparing, so that the main question is answered early; the other
        points come last, ``first`` tells whose: tiers of recipe ids. Of equals, one whose artefact is ``near`` goes
        ahead.
        """
        rank = {pair: i for i, pair in enumerate(self.plan.rest(self.plan.recipes, tiers=first))}

        def worth(unit: WorkUnit) -> tuple[int, int, bool]:
            if unit.point is None:
                return 1, 0, False
            place = (0, 0) if unit.point == self.plan.primary else (2, rank[unit.recipe, unit.point])
            return *place, unit.artifact_key not in near

        return sorted(self._free(), key=worth)

    def start(self, unit: WorkUnit) -> None:
        """Note that a unit runs."""
        self._waiting.remove(unit)
        self._running.append(unit)

    def back(self, unit: WorkUnit) -> None:
        """Put a unit back that did not come through, before those of its kind."""
        self._running.remove(unit)
        self._waiting.insert(0, unit)

    def end(self, unit: WorkUnit) -> None:
        """Take a unit off that is done, or given up."""
        (self._running if unit in self._running else self._waiting).remove(unit)

    def drop(self, recipe: Recipe) -> None:
        """Take off what of a recipe waits."""
        self._waiting = [unit for unit in self._waiting if unit.recipe != recipe]

    def _free(self) -> list[WorkUnit]:
        """Return what has all that it needs: artefacts, the baseline's own row, and the quality of its recipe."""
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
