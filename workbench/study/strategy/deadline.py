"""Time limits of single preparations and groups, and pruning."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from workbench.compress.recipe import Recipe
from workbench.core.errors import TrialFailed
from workbench.study.execution.budget import TimeBudget
from workbench.study.plan.trials import Plan
from workbench.study.workers.process import CancelToken

GROUP_S = 6.0
"""Longest timing of one group."""
_LEAST_S = 3.0


class TrialTimeout(TrialFailed):
    """A preparation exceeded its time limit; the run continues without it."""


class TrainingPruned(TrialFailed):
    """A training was pruned, because it is unlikely to end within the quality limit."""


class TrialDeadline(CancelToken):
    """Cancel token with an additional time limit that raises :class:`TrialTimeout`."""

    def __init__(self, outer: CancelToken, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(outer.deadline)
        self._event = outer._event  # cancelled together
        self._outer, self._clock = outer, clock
        self._seconds, self._begun = math.inf, 0.0
        self._counts = False

    def limit(self, seconds: float) -> None:
        """Set the time limit, counted from the first check, without the wait for the machine."""
        self._seconds, self._counts = max(0.0, seconds), False

    def remaining(self) -> float:
        """Return the seconds until the earlier deadline."""
        used = self._clock() - self._begun if self._counts else 0.0
        return min(self._outer.remaining(), self._seconds - used)

    def check(self) -> None:
        """Raise as the outer token, or :class:`TrialTimeout` after the time limit."""
        self._outer.check()
        if not self._counts:
            self._counts, self._begun = True, self._clock()
        used = self._clock() - self._begun
        if used >= self._seconds:
            raise TrialTimeout(
                f"It was stopped after {used:.0f} s, several times what was predicted: the time is kept for variants "
                "that fit."
            )


class StrategyBudget(TimeBudget):
    """Leaves the choice of what fits to the strategy; ``timing_s`` is the time of the next group."""

    timing_s = GROUP_S

    def __init__(self, plan: Plan, stop: CancelToken) -> None:
        super().__init__(replace(plan, recipes=()), stop)

    def fits(self, recipe: Recipe, *, prepared: bool) -> bool:
        """Return True while there is time for anything at all."""
        return self._stop.remaining() >= _LEAST_S

    def share_s(self) -> float:
        """Return the seconds that the next group may spend in timing."""
        return self.timing_s
