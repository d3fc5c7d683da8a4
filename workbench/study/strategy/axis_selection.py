"""Select compression axes by untrained probes, timed on the leading engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from workbench.study.results.quality_limits import is_share
from workbench.study.strategy.axes import GENTLE, PROBED, WORDS, Axis, probe_steps
from workbench.study.strategy.context import LEAST_TRAINING_S, Context, Leader
from workbench.study.strategy.drop_model import POINT, DropModel, next_share, prior, speedup_at, with_untrained_drop
from workbench.study.strategy.interface import ProbeResult

GAIN = 1.05
"""Minimum predicted speedup of an axis over the leading variant."""
_ALL, _FIRST_ONE = 4.0, 2.8
"""Expected time of probing and one short training in units of `finish_s`: for all axes, and for depth alone."""
_USUAL = 1.35
"""Assumed speedup for 30 % of the blocks without a probe."""
_SHARE, _LONG_S = 0.2, 600.0
FIRST = 0.6
"""Predicted drop of an axis' first candidate, as a share of the limit."""
_SURVEYED = {"depth": "depth", "width": "prune", "rank": "factorize"}
"""Names of the axes in the survey."""
_MODEL_LESS = {"depth": "It has no removable residual block."}


@dataclass(frozen=True)
class AxisForecast:
    """The share of its first candidate, with predicted drop and speedup over the leader."""

    axis: Axis
    model: DropModel
    share: float
    speedup: float
    drop: float


def axes_in_time(context: Context) -> dict[str, float]:
    """Return the axes to probe with their shares: all, depth alone, or none, by the time left."""
    kept = context.record.facts.get("axes")
    if kept is None:
        left = context.left_s() - LEAST_TRAINING_S
        names = list(PROBED) if left >= _ALL * context.finish_s else ["depth"]
        if left < _FIRST_ONE * context.finish_s:
            return {}
        kept = context.record.once("axes", lambda: names) or ()
    return {name: PROBED[name] for name in kept}


def forecast_axes(context: Context, leader: Leader, axes: dict[str, float]) -> list[AxisForecast]:
    """Probe axes and return the forecasts with a sufficient gain, the largest speedup first."""
    for name in PROBED:
        if name not in axes:
            context.decide("structures", WORDS[name], "not begun", "The time left allows one axis, and depth is first.")
    probes = _probes(context, leader, axes)
    unprobed = [_unprobed(context, leader)] if "depth" not in probes else []
    probed = _probed_axes(context, leader, probes, PROBED)
    forecasts = [_forecast(context, leader, axis) for axis in itertools.chain(unprobed, probed)]
    return sorted(filter(None, forecasts), key=lambda forecast: -forecast.speedup)


def untrained_axes(context: Context, leader: Leader) -> list[Axis]:
    """Return the axes probed at small shares, for tasks without training."""
    return list(_probed_axes(context, leader, _probes(context, leader, GENTLE), GENTLE))


def _probed_axes(
    context: Context, leader: Leader, probes: dict[str, ProbeResult], shares: dict[str, float]
) -> Iterator[Axis]:
    """Yield the axes that could be probed; the others are dropped."""
    for name, probe in probes.items():
        axis = _axis(name, probe, shares[name], depth_options(context, leader))
        if axis is not None:
            yield axis
        else:
            why = probe.error or _MODEL_LESS.get(name, "It could not be timed.")
            context.decide("structures", WORDS[name], "dropped", why)


def _probes(context: Context, leader: Leader, shares: dict[str, float]) -> dict[str, ProbeResult]:
    """Return the probe of each axis against the leading variant."""

    def make() -> dict[str, Any] | None:
        most = max(_SHARE * context.question.budget_s, 2 * context.finish_s)
        limit = min(most, context.left_s() - LEAST_TRAINING_S)
        recipes = [context.recipe(leader.finish, "reference")]
        for name, share in shares.items():
            steps = probe_steps(name, share, depth_options(context, leader))
            recipes.append(context.recipe((*steps, *leader.finish), name))
        context.work.notify(f"plan: timing {', '.join(shares)} untrained on {leader.engine}")
        results = context.work.probe(recipes, engine=leader.engine, limit_s=limit)
        return {name: asdict(probe) for name, probe in zip(("reference", *shares), results, strict=False)}

    kept = context.record.once("probes", make) or {}
    probes = {name: ProbeResult(**values) for name, values in kept.items()}
    reference = probes.pop("reference", None)
    if reference is not None and reference.epoch_s is not None and context.epoch_s is None:
        context.epoch_s = reference.epoch_s
    context.unsupported |= {_SURVEYED[name]: probe.error for name, probe in probes.items() if probe.error}
    for name in shares:
        if name not in probes:
            context.decide("structures", f"a probe of {WORDS[name]}", "not begun", "The time for probing was used up.")
    return probes


def depth_options(context: Context, leader: Leader) -> dict[str, Any]:
    """Return the options of depth pruning: for long budgets, blocks are ranked by saved latency."""
    if context.question.budget_s < _LONG_S:
        return {}
    return {"measure_latency": True, "engine": leader.engine, "engine_batch": context.question.batch}


def _axis(name: str, probe: ProbeResult, share: float, options: dict[str, Any]) -> Axis | None:
    steps = probe_steps(name, share, options)
    if probe.error or probe.ratio is None:
        return None
    unit, most = 0.05, 0.9
    if name == "depth":
        share = 1 - probe.macs
        if not probe.taken or share <= 0:
            return None
        unit = share / probe.taken
        most = min(most, unit * probe.units)
    return Axis(name, share, probe.ratio, unit, probe.seconds, probe.validation_drop, most, steps, options)


def _unprobed(context: Context, leader: Leader) -> Axis:
    """Return depth with the prior of other models, without a probe."""
    options = depth_options(context, leader)
    steps = probe_steps("depth", PROBED["depth"], options)
    return Axis("depth", PROBED["depth"], _USUAL, 0.1, context.finish_s, probe=steps, options=options, counted=False)


def _forecast(context: Context, leader: Leader, axis: Axis) -> AxisForecast | None:
    model = prior(axis.name, point=_point(context), samples=context.question.train_samples)
    lost = None if axis.untrained is None else axis.untrained - max(0.0, leader.drop)
    model = with_untrained_drop(model, share=axis.probed, untrained=lost, floor=floor_of(context))
    allowed = context.limit - max(0.0, leader.drop)
    share = next_share(model, low=0.0, high=None, unit=axis.unit, allowed=FIRST * allowed, most=axis.most)
    if share is None and model.drop(axis.unit) <= allowed:
        share = axis.unit
    if share is None:
        why = f"The smallest share has a predicted drop of {model.drop(axis.unit):.4f} after recovery."
        context.decide("structures", WORDS[axis.name], "dropped", why, predicted_drop=model.drop(axis.unit))
        return None
    speedup = speedup_at(share, probed=axis.probed, ratio=axis.ratio)
    most = speedup_at(model.share(allowed), probed=axis.probed, ratio=axis.ratio)
    drop = max(0.0, leader.drop) + model.drop(share)
    figures = {"predicted_speedup": speedup, "predicted_drop": drop}
    if max(speedup, most) < GAIN:
        why = f"Untrained, {axis.probed:.0%} has a speedup of {axis.ratio:.2f}x over {leader.name} on {leader.engine}."
        context.decide("structures", WORDS[axis.name], "dropped", why, **figures)
        return None
    why = f"{axis.words(share)}: {speedup:.2f}x over {leader.name}, drop {drop:.4f} after recovery (predicted)."
    context.decide("structures", WORDS[axis.name], "kept", why, **figures)
    return AxisForecast(axis, model, share, speedup, drop)


def floor_of(context: Context) -> float:
    """Return the smallest drop that is resolved."""
    return 0.1 * context.limit or 1e-6


def _point(context: Context) -> float:
    """Return one point in the metric's units: 0.01 for accuracies, else the limit."""
    return POINT if is_share(context.base_quality) or not context.limit else context.limit


def value_of_data(context: Context, leader: Leader, axes: list[Axis]) -> str:
    """Return a note on the predicted gain of a training split, from the untrained speedups."""
    words = []
    for axis in axes:
        model = prior(axis.name, point=_point(context), samples=4000)
        share = model.share(max(0.0, 0.8 * (context.limit - max(0.0, leader.drop))))
        speedup = speedup_at(share, probed=axis.probed, ratio=axis.ratio)
        if speedup >= GAIN:
            words.append(f"{WORDS[axis.name]} of {share:.0%} ({speedup:.2f}x over {leader.name} predicted)")
    if not words:
        return "No compression axis gains speed on the leading engine, so no gain of training data is predicted."
    return f"About 4,000 training samples would allow {' or '.join(words)} within the limit."
