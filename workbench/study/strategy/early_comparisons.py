"""Early comparisons by short trainings: axes at one speed, and a bold cut with the gentle one (successive halving)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from workbench.study.results.quality_limits import standard_error
from workbench.study.strategy.axes import WORDS, Axis, Steps, distill
from workbench.study.strategy.axis_selection import FIRST, AxisForecast, floor_of
from workbench.study.strategy.context import LEAST_TRAINING_S, Context, Leader
from workbench.study.strategy.drop_model import DropModel, next_share, share_for, speedup_at
from workbench.study.strategy.interface import ProbeResult
from workbench.study.strategy.iterative_training import stop_check_for

_SHARE = 0.07
"""The share of the time for training that each short training takes."""
_LEAST_S = 60.0
"""Seconds for training below which the axis with the best prediction is taken without a comparison."""
_LIKELY = 3.0
"""An axis whose equally fast candidate is predicted to lose so many times the limit is not compared."""
_MOST = 3
_BOLD = 3.0
"""How many times the limit a bold cut is predicted to lose: predictions are often off by as much."""
_BOLD_SHARE, _WORTH = 0.1, 6.0
"""The share of the time for training that a bold cut is trained for, and how many times that must be left."""
_LEFT = 0.6
"""The share of the drop after a short training that is expected to be left by the whole one."""


@dataclass(frozen=True)
class ChosenAxis:
    """The axis that goes on, with the steps that are trained already."""

    forecast: AxisForecast
    head: Steps = ()


def choose_axis(context: Context, leader: Leader, forecasts: list[AxisForecast]) -> ChosenAxis | None:
    """Return the axis to climb; several are compared by a short training at one predicted speed."""
    if not forecasts:
        return None
    first = forecasts[0]
    rivals = [first, *(same for one in forecasts[1:] if (same := _as_fast(context, leader, one, first)) is not None)]
    seconds = context.record.once("early seconds", lambda: round(_SHARE * max(0.0, context.left_s()), 1)) or 0.0
    worth = len(rivals) > 1 and context.left_s() >= _LEAST_S and seconds >= LEAST_TRAINING_S
    if not context.record.once("compare", lambda: worth):
        for loser in forecasts[1:]:
            why = f"{WORDS[first.axis.name]} is predicted to have the lowest latency for the same drop."
            context.decide("early comparison", WORDS[loser.axis.name], "dropped", why)
        return _bolder(context, leader, first)
    return _compared(context, rivals[:_MOST], seconds)


def _as_fast(context: Context, leader: Leader, forecast: AxisForecast, first: AxisForecast) -> AxisForecast | None:
    """Return a forecast at the speedup of the first one, or None if its drop is far beyond the limit."""
    axis = forecast.axis
    share = share_for(first.speedup, probed=axis.probed, ratio=axis.ratio)
    if share is None or share >= 0.9 or axis.steps(share) is None:
        return None
    drop = max(0.0, leader.drop) + forecast.model.drop(share)
    if drop > _LIKELY * context.limit:
        return None
    return AxisForecast(axis, forecast.model, share, first.speedup, drop)


def _compared(context: Context, rivals: list[AxisForecast], seconds: float) -> ChosenAxis:
    heads = [
        (*(rival.axis.steps(rival.share) or ()), distill(seconds, epochs=8.0, epoch_s=context.epoch_s))
        for rival in rivals
    ]

    def make() -> list[dict[str, Any]]:
        results = []
        for rival, head in zip(rivals, heads, strict=True):
            context.work.notify(f"plan: comparing {rival.axis.words(rival.share)} after {seconds:.0f} s of training")
            results.append(_probed(context, rival.axis, head, seconds))
        return results

    probes = [ProbeResult(**values) for values in context.record.once("early comparison", make) or ()]
    for probe in probes:
        if probe.epoch_s is not None:
            context.epoch_s = probe.epoch_s
    if len(probes) < len(rivals):
        return ChosenAxis(rivals[0])
    ranked = sorted(zip(rivals, heads, probes, strict=True), key=lambda one: _badness(one[2]))
    best, head, probe = ranked[0]
    for rival, _, other in ranked[1:]:
        context.decide("early comparison", rival.axis.words(rival.share), "dropped", _against(context, probe, other))
    if probe.error or probe.validation_drop is None:
        return ChosenAxis(rivals[0])
    why = f"It lost least on the validation split after {seconds:.0f} s: {probe.validation_drop:.4f}."
    context.decide("early comparison", best.axis.words(best.share), "kept", why, predicted_speedup=best.speedup)
    return ChosenAxis(best, head)


def _bolder(context: Context, leader: Leader, forecast: AxisForecast) -> ChosenAxis:
    """Train a bold cut for a short time: it goes on if it may end within the limit, else the gentle one is taken.

    The prediction is corrected by what the short training shows in either case.
    """
    axis, allowed = forecast.axis, context.limit - max(0.0, leader.drop)
    options: dict[str, Any] = {"high": None, "unit": axis.unit, "most": axis.most}
    share = next_share(forecast.model, low=forecast.share, allowed=_BOLD * allowed, beyond=1.0, **options)
    seconds = max(LEAST_TRAINING_S, _BOLD_SHARE * context.left_s())
    worth = share is not None and context.left_s() >= max(_LEAST_S, _WORTH * seconds)
    plan = {"share": share if worth else None, "seconds": round(seconds, 1)}
    chosen = context.record.once("bold", lambda: plan) or {"share": None}
    steps = None if chosen["share"] is None else axis.steps(chosen["share"])
    if steps is None:
        return ChosenAxis(forecast)
    share, head = chosen["share"], (*steps, distill(chosen["seconds"], epochs=8.0, epoch_s=context.epoch_s))

    def make() -> dict[str, Any]:
        context.work.notify(f"plan: trying {axis.words(share)} by {chosen['seconds']:.0f} s of training")
        return _probed(context, axis, head, chosen["seconds"])

    probe = ProbeResult(**(context.record.once("bold cut", make) or {"error": "It was not tried."}))
    if probe.error or probe.validation_drop is None:
        context.decide("early comparison", axis.words(share), "dropped", probe.error or "It was not measured.")
        return ChosenAxis(forecast)
    if probe.epoch_s is not None:
        context.epoch_s = probe.epoch_s
    expected = _LEFT * max(0.0, probe.validation_drop)
    model = forecast.model.observed(share, expected, floor=floor_of(context))
    lost = f"It lost {probe.validation_drop:.4f} on the validation split after {chosen['seconds']:.0f} s of training"
    if expected <= allowed:
        why = f"{lost}, {_LEFT:.0%} of which is expected to stay."
        context.decide("early comparison", axis.words(share), "kept", why)
        return ChosenAxis(_at(forecast, model, share, leader), head)
    context.decide("early comparison", axis.words(share), "dropped", f"{lost}: a gentler cut comes first.")
    gentle = next_share(model, low=0.0, allowed=FIRST * allowed, **options) or forecast.share
    return ChosenAxis(_at(forecast, model, min(gentle, share - axis.unit), leader))


def _probed(context: Context, axis: Axis, head: Steps, seconds: float) -> dict[str, Any]:
    """Return the probe of a short training as JSON-ready values."""
    recipes, limit = [context.recipe(head, axis.name)], min(3 * seconds + axis.seconds + 8.0, context.left_s())
    results = context.work.probe(recipes, engine=None, limit_s=limit, watch=stop_check_for(context))
    return asdict(results[0] if results else ProbeResult(error="It took too long."))


def _at(forecast: AxisForecast, model: DropModel, share: float, leader: Leader) -> AxisForecast:
    """Return a forecast at another share."""
    axis = forecast.axis
    speedup = speedup_at(share, probed=axis.probed, ratio=axis.ratio)
    return replace(forecast, model=model, share=share, speedup=speedup, drop=max(0.0, leader.drop) + model.drop(share))


def _badness(probe: ProbeResult) -> float:
    return float("inf") if probe.error or probe.validation_drop is None else probe.validation_drop


def _against(context: Context, best: ProbeResult, other: ProbeResult) -> str:
    if other.error or other.validation_drop is None or best.validation_drop is None:
        return other.error or "It was not measured."
    apart = other.validation_drop - best.validation_drop
    error = standard_error(max(apart, 0.0), context.question.validation_samples)
    sure = "" if apart > 2 * error else f", within two standard errors ({error:.4f})"
    return f"It lost {other.validation_drop:.4f} on the validation split, {apart:.4f} more than the best{sure}."
