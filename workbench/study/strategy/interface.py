"""Types between the strategy and its executor: the request, results of trials, and probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from workbench.compress.recipe import Recipe
from workbench.study.config import BUDGET_S, RunConfig
from workbench.study.plan.trials import Plan
from workbench.study.results.quality_limits import within_limit

if TYPE_CHECKING:
    from workbench.tasks.task import Task


@dataclass(frozen=True)
class PlanRequest:
    """Request of a run: maximum drop, budget in seconds, number of operating points, and primary batch size.

    ``train_samples`` is 0 if the task has no training split.
    """

    limit: float
    budget_s: float
    backends: tuple[str, ...]
    train_samples: int
    validation_samples: int
    points: int = 1
    batch: int = 32
    seed: int = 0

    @classmethod
    def of(cls, task: Task, plan: Plan, config: RunConfig) -> PlanRequest:
        """Return the request of a run; without a budget it has the default one."""
        return cls(
            limit=config.quality_drop, budget_s=config.budget_s or BUDGET_S, backends=plan.backends,
            train_samples=len(task.train) if task.has_train else 0, validation_samples=len(task.validation),
            points=len(plan.points), batch=plan.primary.batch, seed=config.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial at the primary batch size, with the state of its row.

    ``quality`` is measured on the evaluation split, ``validation`` in torch on the validation split. ``speedup_high``
    is the upper end of the 95 % CI. ``quantize_loss`` is the validation drop of the step Quantize, ``epoch_s`` the
    seconds per epoch, and ``reason`` the reason if it is not complete.
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
    """Result of a probe: a variant without a trial.

    ``ratio`` is its speedup over the reference, or None. ``macs`` and ``params`` are relative to the float model.
    ``units`` is the number of removable units of the first step, ``taken`` the number removed.
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


StopCheck = Callable[[float, float], str | None]
"""``watch(progress, metric)`` returns the reason to prune a training, or None."""


class PlanExecutor(Protocol):
    """Executes the strategy's actions: :class:`workbench.study.strategy.executor.StrategyRun`.

    A preparation that exceeds ``limit_s`` seconds is stopped, and its trials stay ``waiting``.
    """

    def remaining(self) -> float:
        """Return the seconds that are left of the budget."""

    def notify(self, message: str) -> None:
        """Report progress."""

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

        ``survey`` is the note of low-fidelity rows; ``judged=False`` skips the evaluation split.
        """

    def probe(
        self, recipes: Sequence[Recipe], *, engine: str | None, limit_s: float, watch: StopCheck | None = None
    ) -> list[ProbeResult]:
        """Apply recipes without trials; with an engine, time each against the first one."""

    def finals(self) -> None:
        """Time the leading rows within the limit head to head."""

    def others(self, recipes: Sequence[Recipe], *, limit_s: float) -> None:
        """Time recipes on the same engines at the other batch sizes and shapes."""

    def best(self) -> str | None:
        """Return the recipe_id of the current recommendation."""

    def front(self) -> list[Recipe]:
        """Return the recipes on the Pareto front at the primary point."""
