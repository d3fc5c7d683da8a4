"""State shared by the parts of the strategy: request, results, costs, and reserved time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.compress.recipe import Recipe
from workbench.study.strategy.axes import Steps
from workbench.study.strategy.decision_log import Decision, DecisionLog
from workbench.study.strategy.interface import PlanExecutor, PlanRequest, StopCheck, TrialResult

_FINISH_S = 15.0
_GROUP_S = 4.0
_FINALS_S = 16.0
"""Seconds of the finalists' head-to-head timing, with the start of its processes."""
_OVERRUN = 3.0
"""A preparation is stopped after this multiple of its prediction, so that a smaller candidate still fits."""
_SLACK_S = 8.0
_AGAIN = 0.7
_REUSED_S, _LEAST_FINISH_S = 1.0, 4.0
_SURVEY_FROM_S, _SURVEY = 120.0, 0.12
LEAST_TRAINING_S = 8.0


@dataclass(frozen=True)
class Leader:
    """The best variant without training: its engine, and the final steps of candidates for it."""

    engine: str
    finish: Steps
    speedup: float
    drop: float
    name: str


@dataclass
class Context:
    """Results and costs so far; ``finish_s`` are the seconds to quantize and time one variant."""

    question: PlanRequest
    work: PlanExecutor
    record: DecisionLog
    results: list[TrialResult] = field(default_factory=list)
    finish_s: float = _FINISH_S
    epoch_s: float | None = None
    base_quality: float | None = None
    """Quality of the float model, for early stopping of trainings."""

    late: bool = False
    """True after the survey: the remaining time is for training."""
    unsupported: dict[str, str] = field(default_factory=dict)
    """Techniques that do not apply to this model, with the reason."""

    @property
    def limit(self) -> float:
        """The maximum drop of quality."""
        return self.question.limit

    @property
    def reserve_s(self) -> float:
        """Seconds reserved for finalists, other batch sizes, and the survey."""
        budget = self.question.budget_s
        if self.late:
            return _FINALS_S / 2
        finalists = _FINALS_S if budget >= _SURVEY_FROM_S else _FINALS_S / 2
        others = min(2 * (self.question.points - 1) * _GROUP_S, 0.12 * budget)
        return finalists + others + (_SURVEY * budget if budget >= _SURVEY_FROM_S else 0.0)

    def left_s(self) -> float:
        """Return the seconds left for candidates."""
        return self.work.remaining() - self.reserve_s

    def recipe(self, steps: Steps, name: str) -> Recipe:
        """Return a recipe with this run's seed."""
        return Recipe(*steps, seed=self.question.seed, name=name)

    def measure(
        self,
        recipe: Recipe,
        backends: Sequence[str],
        *,
        predicted_s: float,
        survey: str = "",
        judged: bool = True,
        keep_s: float | None = None,
        watch: StopCheck | None = None,
    ) -> list[TrialResult]:
        """Measure a recipe within its time limit; ``keep_s`` is reserved for the time after its preparation.

        A resumed run does not repeat a preparation that was pruned for its quality.
        """
        name = f"outcome {recipe.recipe_id}"
        stopped = self.record.facts.get(name)
        if stopped is not None:
            return [TrialResult(recipe, backend, "pruned", reason=stopped) for backend in backends]
        keep = self.reserve_s + self.finish_s if keep_s is None else keep_s
        limit = min(_OVERRUN * predicted_s + _SLACK_S, self.work.remaining() - keep)
        if not recipe.steps:  # every comparison needs the float model
            limit = math.inf
        self.record.recipe(recipe)
        results = self.work.measure(recipe, backends, limit_s=limit, survey=survey, judged=judged, watch=watch)
        for result in results:
            if result.state == "pruned":
                self.record.once(name, lambda result=result: result.reason)  # type: ignore[misc]
            if result.epoch_s is not None:
                self.epoch_s = result.epoch_s
        self.results += results
        return results

    def update_finish_s(self, seconds: float, results: Sequence[TrialResult]) -> None:
        """Estimate the time of int8 from calibration to its rows by the first one, unless its rows were reused."""
        if seconds > _REUSED_S and any(result.complete for result in results):
            estimate = _AGAIN * max(seconds, _LEAST_FINISH_S)
            self.finish_s = float(self.record.once("finish_s", lambda: round(estimate, 1)) or estimate)
        else:
            self.finish_s = float(self.record.facts.get("finish_s", self.finish_s))

    def decide(self, stage: str, subject: str, outcome: str, why: str, **figures: float | None) -> None:
        """Log and report a decision."""
        self.record.add(Decision(stage, subject, outcome, why, **figures))
        self.work.notify(f"plan: {subject}: {outcome}. {why}")
