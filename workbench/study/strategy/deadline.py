"""A stop with a nearer deadline for one preparation, so that it cannot use up the time of what comes after it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from workbench.core.errors import TrialFailed
from workbench.study.workers.process import CancelToken


class TrialTimeout(TrialFailed):
    """A preparation took longer than it may. The run goes on without it."""


class TrainingPruned(TrialFailed):
    """A training was stopped because it cannot be expected to end within the quality limit."""


class TrialDeadline(CancelToken):
    """Passes another stop on, and ends what runs at a deadline of its own with :class:`TrialTimeout`."""

    def __init__(self, outer: CancelToken, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(outer.deadline)
        self._outer, self._clock = outer, clock
        self._seconds, self._begun = math.inf, 0.0
        self._counts = False

    def limit(self, seconds: float) -> None:
        """Allow so many seconds, counted from the first look at the clock: waiting for the machine is not counted."""
        self._seconds, self._counts = max(0.0, seconds), False

    def set(self) -> None:
        """Ask for the stop."""
        self._outer.set()

    @property
    def requested(self) -> bool:
        """True once the stop was asked for."""
        return self._outer.requested

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the stop is asked for."""
        self._outer.wait(seconds)

    def remaining(self) -> float:
        """Return the seconds until the nearer deadline."""
        used = self._clock() - self._begun if self._counts else 0.0
        return min(self._outer.remaining(), self._seconds - used)

    def check(self) -> None:
        """Raise as the other stop, or Overrun after the nearer deadline."""
        self._outer.check()
        if not self._counts:
            self._counts, self._begun = True, self._clock()
        used = self._clock() - self._begun
        if used >= self._seconds:
            raise TrialTimeout(
                f"It was stopped after {used:.0f} s, several times what was predicted: the time is kept for variants "
                "that fit."
            )
