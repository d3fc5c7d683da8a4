"""What the parts of the strategy share: question, evidence, costs, and the time that is kept back."""

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
"""Seconds that the head-to-head timing of the leading rows takes, with the start of its processes."""
_OVERRUN = 3.0
"""A preparation is stopped once it took so many times what was predicted: a gentler candidate still fits then."""
_SLACK_S = 8.0
_AGAIN = 0.7
_TOLD_S, _LEAST_FINISH_S = 1.0, 4.0
_SURVEY_FROM_S, _SURVEY = 120.0, 0.12
LEAST_TRAINING_S = 8.0


@dataclass(frozen=True)
class Leader:
    """The best variant without training: its engine, and the steps that candidates end with there."""

    engine: str
    finish: Steps
    speedup: float
    drop: float
    name: str


@dataclass
class Context:
    """What is known and what it cost; ``finish_s`` are the seconds that finishing and timing one variant take."""

    question: PlanRequest
    work: PlanExecutor
    record: DecisionLog
    results: list[TrialResult] = field(default_factory=list)
    finish_s: float = _FINISH_S
    epoch_s: float | None = None
    base_quality: float | None = None
    """Quality of the float model that trainings are watched against."""

    late: bool = False
    """True once the survey is done: what is left is for training."""
    unsupported: dict[str, str] = field(default_factory=dict)
    """Techniques that this model has nothing for, with the reason."""

    @property
    def limit(self) -> float:
        """The largest accepted drop of quality."""
        return self.question.limit

    @property
    def reserve_s(self) -> float:
        """Seconds that no candidate may use: the finalists, the other batch sizes, and the survey."""
        budget = self.question.budget_s
        if self.late:
            return _FINALS_S / 2
        finalists = _FINALS_S if budget >= _SURVEY_FROM_S else _FINALS_S / 2
        others = min(2 * (self.question.points - 1) * _GROUP_S, 0.12 * budget)
        return finalists + others + (_SURVEY * budget if budget >= _SURVEY_FROM_S else 0.0)

    def left_s(self) -> float:
        """Return the seconds that candidates may still use."""
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
        """Measure a recipe of the plan within the time that it may take; ``keep_s`` stays after its preparation.

        A preparation that ended without a trial is not repeated by a resumed run if it was stopped for its quality.
        """
        name = f"outcome {recipe.recipe_id}"
        stopped = self.record.facts.get(name)
        if stopped is not None:
            return [TrialResult(recipe, backend, "pruned", reason=stopped) for backend in backends]
        keep = self.reserve_s + self.finish_s if keep_s is None else keep_s
        limit = min(_OVERRUN * predicted_s + _SLACK_S, self.work.remaining() - keep)
        if not recipe.steps:  # without the float model there is nothing to compare with: it may take all of the time
            limit = math.inf
        self.record.recipe(recipe)
        found = self.work.measure(recipe, backends, limit_s=limit, survey=survey, judged=judged, watch=watch)
        for result in found:
            if result.state == "pruned":
                self.record.once(name, lambda result=result: result.reason)  # type: ignore[misc]
            if result.epoch_s is not None:
                self.epoch_s = result.epoch_s
        self.results += found
        return found

    def update_finish_s(self, seconds: float, found: Sequence[TrialResult]) -> None:
        """Note how long int8 takes from calibration to its rows, from the first time, which also imports libraries.

        Reused rows take no time and tell nothing.
        """
        if seconds > _TOLD_S and any(result.complete for result in found):
            seconds = max(seconds, _LEAST_FINISH_S)
            seconds *= _AGAIN
            self.finish_s = float(self.record.once("finish_s", lambda: round(seconds, 1)) or seconds)
        else:
            self.finish_s = float(self.record.facts.get("finish_s", self.finish_s))

    def decide(self, stage: str, subject: str, outcome: str, why: str, **figures: float | None) -> None:
        """Note a decision, and report it."""
        self.record.add(Decision(stage, subject, outcome, why, **figures))
        self.work.say(f"plan: {subject}: {outcome}. {why}")
