"""The default plan as a strategy: free variants first, one decision from evidence, few trainings, then the survey."""

from __future__ import annotations

from dataclasses import replace

from workbench.study.strategy.axes import Steps
from workbench.study.strategy.axis_selection import axes_in_time, forecast_axes, untrained_axes, value_of_data
from workbench.study.strategy.context import Context, Leader
from workbench.study.strategy.decision_log import DecisionLog
from workbench.study.strategy.early_comparisons import choose_axis
from workbench.study.strategy.interface import PlanExecutor, PlanRequest
from workbench.study.strategy.iterative_training import IterativeTraining
from workbench.study.strategy.survey import survey
from workbench.study.strategy.training_free import measure_training_free

_FEW = 1000
"""Below this number of training samples the report estimates the gain of more data."""


class Strategy:
    """Carries the plan out through ``work``; see :meth:`run`.

    After every part the best known variant within the limit is complete at the primary batch size: timed and
    evaluated. Whatever the time is used up by, it is kept.
    """

    def __init__(self, question: PlanRequest, work: PlanExecutor, record: DecisionLog) -> None:
        self._context = Context(question, work, record)
        self._training: IterativeTraining | None = None

    def words(self) -> str:
        """Return the plan in a sentence, before it starts."""
        question = self._context.question
        engines = ", ".join(question.backends)
        trains = (
            f"train a few of them on {question.train_samples:,} samples" if question.train_samples else "no training"
        )
        return (
            f"plan for {question.budget_s:.0f} s: float and static int8 on {engines}; then compare depth, width and "
            f"rank on the fastest engine; {trains}; keep the best within a drop of {question.limit:g}; "
            "then other batch sizes and a survey of the other techniques"
        )

    def run(self) -> None:
        """Carry the plan out.

        Raises
        ------
        OutOfTime, Cancelled
            As the work: complete trials stay, and the decisions are repeated by the next run.
        """
        context = self._context
        leader = measure_training_free(context)
        if leader is None:
            context.decide("no training", "float", "dropped", "No engine could run the float model.")
            return
        trained = self._improve(leader)
        context.work.finals()
        self._others(recommended=True)
        survey(context, leader, trained)
        self._others(recommended=False)
        self._use_the_rest(leader)

    def _use_the_rest(self, leader: Leader) -> None:
        """Train with what the survey has left, if a training was not begun for lack of time."""
        context = self._context
        context.late, results_before = True, len(context.results)
        if self._training is not None and self._training.out_of_time:
            self._training.run()
        elif self._training is None and "axes" not in context.record.facts and context.question.train_samples:
            self._improve(leader)
        if len(context.results) > results_before:
            context.work.finals()
            self._others(recommended=True)

    def _improve(self, leader: Leader) -> Steps:
        """Spend the time for training; return the steps before the finish of the best trained variant."""
        context = self._context
        if not context.question.train_samples:
            self._without_training(leader)
            return ()
        axes = axes_in_time(context)
        if not axes:
            if not context.late:
                why = f"{max(0.0, context.left_s()):.0f} s are left for it, which is too short for one training."
                context.decide("training", "depth, width and rank", "not begun", why)
            return ()
        forecasts = forecast_axes(context, leader, axes)
        chosen = choose_axis(context, leader, forecasts)
        if chosen is None:
            context.decide("training", "all axes", "dropped", f"None is predicted to gain over {leader.name}.")
            return ()
        training = self._training = IterativeTraining(context, leader, chosen.forecast, chosen.head)
        training.run()
        for forecast in forecasts:
            if forecast.axis.name != chosen.forecast.axis.name and not training.out_of_time:
                best = training.best
                if best is not None:  # the next axis goes on from there, with the drop that is left
                    leader = replace(leader, speedup=best.speedup or 1.0, drop=best.drop or 0.0, name=best.name)
                training = IterativeTraining(context, leader, forecast, base=training.steps)
                training.run()
        if context.question.train_samples < _FEW:
            self._note_data(value_of_data(context, leader, [forecast.axis for forecast in forecasts]))
        return training.steps

    def _without_training(self, leader: Leader) -> None:
        """Try gentle cuts as they are, and note what training data would buy."""
        context = self._context
        if "probes" not in context.record.facts and context.left_s() < 2 * context.finish_s:
            self._note_data("The time left was too short to measure what a training split would buy.")
            return
        axes = untrained_axes(context, leader)
        for axis in axes:
            drop = axis.untrained
            if drop is None or drop > context.limit or axis.ratio <= 1.0:
                lost = "an unknown drop" if drop is None else f"a drop of {drop:.4f}"
                why = f"It has {lost} on the validation split without recovery."
                context.decide("no training", axis.words(axis.probed), "dropped", why, speedup=axis.ratio, drop=drop)
                continue
            steps = axis.steps(axis.probed) or ()
            recipe = context.recipe((*steps, *leader.finish), f"{axis.short(axis.probed)} untrained")
            results = context.measure(recipe, [leader.engine], predicted_s=axis.seconds + context.finish_s)
            for result in results:
                outcome = "kept" if result.within(context.limit) else "dropped"
                ratio = None if result.speedup is None else result.speedup / leader.speedup
                why = "Measured without any recovery."
                context.decide("no training", axis.words(axis.probed), outcome, why, speedup=ratio, drop=result.drop)
        self._note_data(value_of_data(context, leader, axes))

    def _note_data(self, words: str) -> None:
        samples = self._context.question.train_samples
        subject = f"a training split of {samples:,} samples" if samples else "no training split"
        self._context.decide("data", subject, "not begun", words)

    def _others(self, *, recommended: bool) -> None:
        """Time the recommended recipe, or the rest of the front, at the other batch sizes and shapes."""
        context = self._context
        if context.question.points < 2:
            return
        best, front = context.work.best(), context.work.front()
        chosen = [recipe for recipe in front if (recipe.recipe_id == best) is recommended]
        if chosen:
            context.work.others(chosen, limit_s=context.work.remaining())
