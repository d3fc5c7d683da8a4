"""The first part of the plan: everything that needs no training, on each engine."""

from __future__ import annotations

from workbench.compress.steps import Quantize
from workbench.study.strategy.context import Context, Leader
from workbench.study.strategy.interface import TrialResult

SIMULATED = "torch-eager"
SIMULATED_NOTE = "Torch eager simulates int8 in float, so it is slower by design: timed once, not evaluated."
_WORTH = 1.03
"""A speedup over float from which int8 is taken for the faster one."""
_MIXED_SHARE = 0.15
_KEEP_S = 6.0
"""Seconds that are kept for the timing of int8 while it is prepared."""


def measure_training_free(context: Context) -> Leader | None:
    """Measure float and static int8 on every engine, and return the best variant within the limit.

    None if not even the float model could be measured.
    """
    question = context.question
    floats = context.measure(context.recipe((), "float"), question.backends, predicted_s=context.finish_s)
    _note_quality(context, floats)
    engines = [name for name in question.backends if name != SIMULATED]
    if not engines:
        context.decide("no training", "int8", "dropped", "Only torch eager runs here, and it simulates int8 in float.")
        return leader_of(context, floats, [])
    before = context.work.remaining()
    recipe = context.recipe((Quantize(),), "quantize")
    int8 = context.measure(recipe, engines, predicted_s=2 * context.finish_s, keep_s=_KEEP_S)
    context.update_finish_s(before - context.work.remaining(), int8)
    int8 += _mended(context, floats, int8)
    _log_int8(context, floats, int8)
    return leader_of(context, floats, int8)


def leader_of(context: Context, floats: list[TrialResult], int8: list[TrialResult]) -> Leader | None:
    """Return the fastest variant within the limit; int8 only if it is faster than float on its engine."""
    within = [result for result in (*floats, *int8) if result.within(context.limit)]
    if not within:
        within = [result for result in floats if result.complete]
    if not within:
        return None
    best = max(within, key=lambda result: (result.speedup or 0.0, -len(result.recipe.steps)))
    return Leader(best.backend, best.recipe.steps, best.speedup or 1.0, best.drop or 0.0, best.recipe.name or "float")


def _mended(context: Context, floats: list[TrialResult], int8: list[TrialResult]) -> list[TrialResult]:
    """Keep the worst layers in float if int8 is faster somewhere but loses too much."""
    faster = [r for r in int8 if r.complete and (r.speedup or 0.0) > _WORTH * _on(floats, r.backend)]
    if not faster or any(r.within(context.limit) for r in faster):
        return []
    best = max(faster, key=lambda r: r.speedup or 0.0)
    allowed = max(context.limit / 2, 1e-6)
    seconds = max(3 * context.finish_s, _MIXED_SHARE * context.question.budget_s)
    if context.left_s() < 2 * context.finish_s:
        context.decide("no training", "int8 with its worst layers in float", "not begun", "The time left is too short.")
        return []
    recipe = context.recipe((Quantize(keep_drop=allowed),), "quantize-mixed")
    return context.measure(recipe, [best.backend], predicted_s=seconds / 3)


def _log_int8(context: Context, floats: list[TrialResult], int8: list[TrialResult]) -> None:
    for result in int8:
        before, speedup, outcome = _on(floats, result.backend), result.speedup or 0.0, "dropped"
        figures = {"speedup": result.speedup, "drop": result.drop} if result.complete else {}
        if not result.complete:
            why = result.reason or "It has no result."
        elif not result.within(context.limit):
            why = "Its drop is beyond the limit."
        elif (result.speedup_high or speedup) < before:
            why = f"Its speedup over float is {speedup / before:.2f}x on this engine."
        else:
            outcome, undecided = "kept", "Its speedup over float is undecided on this engine."
            why = undecided if speedup < before else "It is within the limit without training."
        context.decide("no training", f"{result.recipe.label} on {result.backend}", outcome, why, **figures)


def _on(floats: list[TrialResult], backend: str) -> float:
    return next((r.speedup for r in floats if r.backend == backend and r.speedup is not None), 1.0)


def _note_quality(context: Context, floats: list[TrialResult]) -> None:
    """Watch trainings against the lower of both qualities: the float model may have seen the validation split."""
    qualities = [value for result in floats[:1] for value in (result.quality, result.validation) if value is not None]
    context.base_quality = min(qualities, default=None)
