"""What the strategy is asked and what it learns: questions, results of trials, and probes of structures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workbench.compress.recipe import Recipe
from workbench.study.results.quality_limits import within_limit


@dataclass(frozen=True)
class PlanRequest:
    """What a run is asked for.

    ``limit`` is the largest accepted drop of quality, ``budget_s`` the seconds that the plan is made for,
    ``points`` the number of batch sizes and shapes, ``batch`` the primary batch size, ``train_samples`` 0 if the task
    has no training split.
    """

    limit: float
    budget_s: float
    backends: tuple[str, ...]
    train_samples: int
    validation_samples: int
    points: int = 1
    batch: int = 32
    seed: int = 0


@dataclass(frozen=True)
class TrialResult:
    """One trial at the primary batch size. ``state`` is that of its row; ``reason`` why it is not complete.

    ``quality`` is that on the evaluation split, ``validation`` that of the variant in torch on the validation split.
    ``speedup_high`` is the upper end of the 95 % CI of ``speedup``.
    ``quantize_loss`` is what the step Quantize lost on the validation split, ``epoch_s`` the seconds of an epoch.
    """

    recipe: Recipe
    backend: str
    state: str
    speedup: float | None = None
    drop: float | None = None
    quality: float | None = None
    validation: float | None = None
    validation_drop: float | None = None
    quantize_loss: float | None = None
    epoch_s: float | None = None
    reason: str = ""
    speedup_high: float | None = None

    @property
    def complete(self) -> bool:
        """True if the trial was timed and has a speedup."""
        return self.state == "complete" and self.speedup is not None and math.isfinite(self.speedup)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name or self.recipe.label

    def within(self, limit: float) -> bool:
        """Return True if the trial is complete and its drop is within the limit."""
        return self.complete and self.drop is not None and within_limit(self.drop, limit, quality=self.quality)


@dataclass(frozen=True)
class ProbeResult:
    """A variant that was applied and not kept as a trial.

    ``ratio`` is its speedup over the reference on the engine, None if it was not timed. ``macs`` and ``params`` are
    shares of the float model's. ``units`` counts what the first step could take out, ``taken`` what it took.
    """

    ratio: float | None = None
    validation_drop: float | None = None
    quality: float | None = None
    macs: float = 1.0
    params: float = 1.0
    units: int = 0
    taken: int = 0
    seconds: float = 0.0
    epoch_s: float | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeResult:
        """Build from the values of :meth:`to_dict`."""
        return cls(**values)


StopCheck = Callable[[float, float], str | None]
"""``watch(share, metric)`` returns why a training is stopped early, or None to go on."""


class PlanExecutor(Protocol):
    """Carries out the strategy's actions: :class:`workbench.study.strategy.executor.StrategyRun`.

    Every action ends within ``limit_s`` seconds: a preparation that takes longer is stopped, and its trials have the
    state ``waiting``.
    """

    def remaining(self) -> float:
        """Return the seconds that are left of the budget."""

    def say(self, message: str) -> None:
        """Report a sentence of progress."""

    def measure(
        self,
        recipe: Recipe,
        backends: Sequence[str],
        *,
        limit_s: float,
        survey: str = "",
        judged: bool = True,
        watch: StopCheck | None = None,
    ) -> list[TrialResult]:
        """Prepare a recipe, time it at the primary point and evaluate it; complete rows are reused.

        ``survey`` is the note of rows of low fidelity; ``judged=False`` leaves the evaluation split out.
        """

    def probe(
        self, recipes: Sequence[Recipe], *, engine: str | None, limit_s: float, watch: StopCheck | None = None
    ) -> list[ProbeResult]:
        """Apply recipes without keeping trials; on an engine, time each against the first one."""

    def finals(self) -> None:
        """Time the leading rows within the limit head to head."""

    def others(self, recipes: Sequence[Recipe], *, limit_s: float) -> None:
        """Time recipes on the engines they were timed on, at the other batch sizes and shapes."""

    def best(self) -> str | None:
        """Return the recipe_id that would be recommended now."""

    def front(self) -> list[Recipe]:
        """Return the recipes on the Pareto front at the primary point."""
