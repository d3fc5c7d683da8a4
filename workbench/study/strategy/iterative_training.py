"""Iterative compression along one axis: each candidate removes more of the best variant and recovers by training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench.compress.recipe import Recipe, check_order
from workbench.compress.steps import Distill, Quantize
from workbench.core.errors import RecipeError
from workbench.study.results.quality_limits import futile, standard_error
from workbench.study.strategy.axes import Steps, distill
from workbench.study.strategy.axis_selection import AxisForecast, floor_of
from workbench.study.strategy.context import LEAST_TRAINING_S, Context, Leader
from workbench.study.strategy.drop_model import next_share, speedup_at
from workbench.study.strategy.interface import StopCheck, TrialResult

_MOST = 6
_SHARES = (0.35, 0.6, 1.0)
"""Share of the remaining time for each candidate; the last one is for all later candidates."""
_AIM = 0.9
"""Predicted drop of later candidates, as a share of the limit."""
_BEYOND = (1.25, 1.25, 1.6)
"""Tolerated predicted drop of one more unit, as a multiple of the allowed drop."""
_NEAR = 1.6
"""A candidate that misses the limit by less than this factor may be trained longer."""
_SPENT, _MOST_ON = 0.5, 2
"""Minimum drop, as a share of the limit, for further training of the best candidate, and its repetitions."""
_BATCH, _STEPS, _LEAST_EPOCHS = 128, 1200, 30
_GAIN = 1.02
_WON_BACK = 1 / 3


@dataclass(frozen=True)
class Candidate:
    """A candidate: its total share, its steps before the final ones, and its predicted seconds."""

    share: float
    steps: Steps
    seconds: float
    predicted_s: float
    longer: bool = False


@dataclass
class IterativeTraining:
    """Search along one axis. ``prefix`` are the steps of the best variant within the limit, with the share ``low``."""

    context: Context
    leader: Leader
    forecast: AxisForecast
    head: Steps = ()
    """Trained steps of an early comparison, where the first candidate starts. ``base`` are those of another axis."""
    base: Steps = ()
    prefix: Steps = ()
    low: float = 0.0
    high: float | None = None
    missed: Candidate | None = None
    best: TrialResult | None = None
    prolonged: bool = False
    continued: int = 0
    number: int = 0
    out_of_time: bool = False

    @property
    def steps(self) -> Steps:
        """The steps of the best variant within the limit, before the final ones."""
        return self.prefix or self.base

    def __post_init__(self) -> None:
        self.model = self.forecast.model

    def run(self) -> None:
        """Train candidates until the time is used up or no larger share is predicted to meet the limit.

        After ``out_of_time``, another call continues.
        """
        self.out_of_time = False
        while self.number < _MOST:
            number, candidate = self.number, self._candidate(self.number)
            if candidate is None:
                break
            self.number += 1
            if not self._try(number, candidate):
                break

    def _candidate(self, number: int) -> Candidate | None:
        kept = self.context.record.once(f"{self.forecast.axis.name} rung {number}", lambda: self._planned(number))
        if kept is None:
            return None
        steps = Recipe.from_dict(kept["recipe"]).steps
        return Candidate(kept["share"], steps, kept["seconds"], kept["predicted_s"], kept["longer"])

    def _planned(self, number: int) -> dict[str, object] | None:
        """Return the next candidate as JSON-ready values, or None."""
        candidate = self._next(number)
        if candidate is None:
            return None
        recipe = self.context.recipe(candidate.steps, "rung")
        return {**candidate.__dict__, "steps": None, "recipe": recipe.to_dict()}

    def _next(self, number: int) -> Candidate | None:
        context, axis = self.context, self.forecast.axis
        allowed = context.limit - max(0.0, self.leader.drop)
        if number == 0 and not self.base:
            share: float | None = self.forecast.share
        else:
            share = next_share(
                self.model, low=self.low, high=self.high, unit=axis.unit, allowed=_AIM * allowed, most=axis.most,
                beyond=_BEYOND[min(number, len(_BEYOND) - 1)],
            )  # fmt: skip
        seconds = self._seconds(number)
        if seconds is None:
            self.out_of_time = True
            if not context.late:
                words = axis.words(share or self.low)
                context.decide("training", words, "not begun", "The time left is too short.")
            return None
        predicted = seconds * 1.1 + axis.seconds + context.finish_s
        if share is None:
            return self._longer(seconds, predicted) or self._on(seconds, predicted, allowed)
        steps = axis.steps(share, removed=self.low) if self.low else None
        before = self.prefix if steps is not None else self.base
        if number == 0 and self.head:
            before, steps = self.head, ()
        steps = axis.steps(share) if steps is None else steps
        if steps is None or not _in_order((*before, *steps)):
            return None
        return Candidate(share, (*before, *steps, self._distill(seconds)), seconds, predicted)

    def _longer(self, seconds: float, predicted: float) -> Candidate | None:
        """Return the candidate that narrowly missed the limit with a longer training, once."""
        missed = self.missed
        if missed is None or self.prolonged or seconds < missed.seconds / 2:
            return None
        self.prolonged = True
        steps = (*missed.steps, self._distill(seconds))
        return Candidate(missed.share, steps, seconds, predicted, longer=True)

    def _on(self, seconds: float, predicted: float, allowed: float) -> Candidate | None:
        """Return the best candidate with more training if its drop is large, to allow a larger share."""
        best, spent = self.best, _SPENT * self.context.limit
        if best is None or best.drop is None or best.drop < spent or self.continued >= _MOST_ON or allowed <= 0:
            return None
        self.continued += 1
        return Candidate(self.low, (*self.prefix, self._distill(seconds)), seconds, predicted, longer=True)

    def _seconds(self, number: int) -> float | None:
        """Return the seconds of the next training, or None if the time left is too short."""
        context = self.context
        overhead = 1.2 * (self.forecast.axis.seconds + context.finish_s)
        left = (context.left_s() - overhead) / 1.1
        least = max(LEAST_TRAINING_S, context.epoch_s or 0.0)
        if left < least:
            return None
        seconds = _SHARES[min(number, len(_SHARES) - 1)] * left
        if left - seconds < overhead + least:
            seconds = left
        if context.epoch_s:
            seconds = min(seconds, self._epochs() * context.epoch_s * 1.2)
        return max(seconds, least)

    def _distill(self, seconds: float) -> Distill:
        return distill(seconds, epochs=self._epochs(), epoch_s=self.context.epoch_s)

    def _epochs(self) -> float:
        """Return the maximum epochs of a training; small data needs more."""
        per_epoch = max(1, self.context.question.train_samples // _BATCH)
        return float(max(_LEAST_EPOCHS, math.ceil(_STEPS / per_epoch)))

    def _try(self, number: int, candidate: Candidate) -> bool:
        """Train and measure a candidate; return False at the end of the search."""
        context, axis = self.context, self.forecast.axis
        longer = "longer " if candidate.longer else ""
        subject = f"{axis.words(candidate.share)}, {longer}trained for {candidate.seconds:.0f} s"
        expected = speedup_at(candidate.share, probed=axis.probed, ratio=axis.ratio)
        lost = max(0.0, self.leader.drop) + self.model.drop(candidate.share)
        figures: dict[str, float | None] = {"predicted_speedup": expected, "predicted_drop": lost}
        context.work.notify(f"plan: training {subject}; {expected:.2f}x speedup over {self.leader.name} is predicted")
        result = self._measured(candidate, number)
        if result is None or not result.complete:
            return self._without_result(candidate, result, subject, figures)
        ratio, drop = (result.speedup or 0.0) / self.leader.speedup, result.drop
        figures |= {"speedup": ratio, "drop": drop}
        self._observe(candidate.share, drop)
        if not result.within(context.limit):
            self.high = candidate.share
            self.missed = candidate if drop is not None and drop <= _NEAR * context.limit else None
            helped = self._helped(candidate, drop)
            why = "Its drop is beyond the limit" + ("." if helped else ", and training recovered too little of it.")
            context.decide("training", subject, "dropped", why, **figures)
            self._train_rounding(candidate, result, number)
            return helped
        if math.sqrt(ratio * expected) < _GAIN:  # two groups are minutes apart: the paired probe counts as much
            why = f"Its speedup over {self.leader.name} is {ratio:.2f}x: the axis gains nothing here."
            context.decide("training", subject, "dropped", why, **figures)
            return False
        better = self.best is None or (drop or 0.0) < (self.best.drop or 0.0)
        if candidate.share > self.low or (candidate.share == self.low and better):
            self.low, self.prefix, self.best = candidate.share, candidate.steps, result
        self.high = None if self.high is not None and self.high <= candidate.share else self.high
        context.decide("training", subject, "kept", "It is within the limit.", **figures)
        return True

    def _helped(self, candidate: Candidate, drop: float | None) -> bool:
        """Return False if training recovered less than a third of the untrained drop."""
        axis = self.forecast.axis
        if drop is None or axis.untrained is None or self.best is not None:
            return True
        untrained = axis.untrained * min(1.0, candidate.share / axis.probed)
        return drop < (1 - _WON_BACK) * untrained or drop < _NEAR * self.context.limit

    def _without_result(
        self, candidate: Candidate, result: TrialResult | None, subject: str, figures: dict[str, float | None]
    ) -> bool:
        """Log a candidate without a result; a smaller share may follow a stopped one."""
        why = result.reason if result is not None and result.reason else "It has no result."
        self.context.decide("training", subject, "dropped", why, **figures)
        self.missed = None
        if result is None or result.state == "failed":
            return False
        self.high = candidate.share
        if result.state == "pruned":
            self._observe(candidate.share, 2 * self.context.limit)
        return True

    def _measured(self, candidate: Candidate, number: int) -> TrialResult | None:
        context, leader = self.context, self.leader
        words = f"{self.forecast.axis.short(candidate.share)}{' on top' if self.base else ''} + distill"
        words += f"{' longer' if candidate.longer else ''}{' + int8' if leader.finish else ''} ({number + 1})"
        recipe = context.recipe((*candidate.steps, *leader.finish), words)
        watch = stop_check_for(context)
        results = context.measure(recipe, [leader.engine], predicted_s=candidate.predicted_s, watch=watch)
        return results[0] if results else None

    def _observe(self, share: float, drop: float | None) -> None:
        if drop is None:
            return
        own = drop - max(0.0, self.leader.drop)
        self.model = self.model.observed(share, own, floor=floor_of(self.context))

    def _train_rounding(self, candidate: Candidate, result: TrialResult, number: int) -> None:
        """Try quantization-aware training if rounding alone exceeds the limit."""
        context, finish = self.context, self.leader.finish
        lost, drop = result.quantize_loss, result.drop
        if lost is None or drop is None or finish != (Quantize(),) or drop - lost > context.limit:
            return
        if lost < standard_error(max(lost, 0.0), context.question.validation_samples):
            return
        seconds = context.record.once(f"qat {number}", lambda: self._seconds(number))
        if seconds is None:
            return
        trained = Quantize(qat_epochs=3, max_seconds=round(seconds / 2, 1))
        name = f"{self.forecast.axis.short(candidate.share)} + distill + qat"
        recipe = context.recipe((*candidate.steps, trained), name)
        results = context.measure(recipe, [self.leader.engine], predicted_s=seconds + context.finish_s)
        if results and results[0].within(context.limit):
            self.best, self.missed = results[0], None
            ratio = (results[0].speedup or 0.0) / self.leader.speedup
            why = "Training with simulated rounding brought it within the limit."
            context.decide("training", name, "kept", why, speedup=ratio, drop=results[0].drop)


def _in_order(steps: Steps) -> bool:
    try:
        check_order(steps)
    except RecipeError:
        return False
    return True


def stop_check_for(context: Context) -> StopCheck:
    """Return the check that prunes trainings unlikely to end within the limit."""

    def watch(share: float, metric: float) -> str | None:
        base, samples = context.base_quality, context.question.validation_samples
        if base is None or not math.isfinite(metric):
            return None
        if not futile(base - metric, share, context.limit, quality=base, samples=samples):
            return None
        return (
            f"Stopped early: after {share:.0%} of the training the validation quality is {metric:.4f}, and "
            f"{base - context.limit:.4f} cannot be expected."
        )

    return watch
