"""Early comparison: a short training along each axis that may pay, and the best one goes on (successive halving)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from workbench.study.limits import standard_error
from workbench.study.strategy.axes import WORDS, Steps, distill
from workbench.study.strategy.context import LEAST_TRAINING_S, Context, Leader
from workbench.study.strategy.evidence import Probe
from workbench.study.strategy.ladder import watch_for
from workbench.study.strategy.look import Prospect
from workbench.study.strategy.recovery import share_for

_SHARE = 0.07
"""The share of the time for training that each short training takes."""
_LEAST_S = 60.0
"""Seconds for training below which the axis with the best prediction is taken without a comparison."""
_LIKELY = 3.0
"""An axis whose equally fast candidate is predicted to lose so many times the limit is not compared."""
_MOST = 3


@dataclass(frozen=True)
class Chosen:
    """The axis that goes on, with the steps that are trained already."""

    prospect: Prospect
    head: Steps = ()


def choose(context: Context, leader: Leader, prospects: list[Prospect]) -> Chosen | None:
    """Return the axis to climb; several are compared by a short training at one predicted speed."""
    if not prospects:
        return None
    first = prospects[0]
    rivals = [first, *(same for one in prospects[1:] if (same := _as_fast(context, leader, one, first)) is not None)]
    seconds = context.record.once("early seconds", lambda: round(_SHARE * max(0.0, context.left_s()), 1)) or 0.0
    worth = len(rivals) > 1 and context.left_s() >= _LEAST_S and seconds >= LEAST_TRAINING_S
    if not context.record.once("compare", lambda: worth):
        for loser in prospects[1:]:
            why = f"{WORDS[first.axis.name]} is predicted to have the lowest latency for the same drop."
            context.decide("early comparison", WORDS[loser.axis.name], "dropped", why)
        return Chosen(first)
    return _compared(context, rivals[:_MOST], seconds)


def _as_fast(context: Context, leader: Leader, prospect: Prospect, first: Prospect) -> Prospect | None:
    """Return a prospect at the share where it is as fast as the first one, None if that loses far too much."""
    axis = prospect.axis
    share = share_for(first.speedup, probed=axis.probed, ratio=axis.ratio)
    if share is None or share >= 0.9 or axis.steps(share) is None:
        return None
    drop = max(0.0, leader.drop) + prospect.model.drop(share)
    if drop > _LIKELY * context.limit:
        return None
    return Prospect(axis, prospect.model, share, first.speedup, drop)


def _compared(context: Context, rivals: list[Prospect], seconds: float) -> Chosen:
    heads = [
        (*(rival.axis.steps(rival.share) or ()), distill(seconds, epochs=8.0, epoch_s=context.epoch_s))
        for rival in rivals
    ]

    def make() -> list[dict[str, object]]:
        found = []
        for rival, head in zip(rivals, heads, strict=True):
            context.work.say(f"plan: comparing {rival.axis.words(rival.share)} after {seconds:.0f} s of training")
            recipes = [context.recipe(head, rival.axis.name)]
            limit = 3 * seconds + rival.axis.seconds + 8.0
            probes = context.work.probe(
                recipes, engine=None, limit_s=min(limit, context.left_s()), watch=watch_for(context)
            )
            found.append(asdict(probes[0]) if probes else asdict(Probe(error="It took too long.")))
        return found

    probes = [Probe(**values) for values in context.record.once("early comparison", make) or ()]
    for probe in probes:
        if probe.epoch_s is not None:
            context.epoch_s = probe.epoch_s
    if len(probes) < len(rivals):
        return Chosen(rivals[0])
    ranked = sorted(zip(rivals, heads, probes, strict=True), key=lambda one: _badness(one[2]))
    best, head, probe = ranked[0]
    for rival, _, other in ranked[1:]:
        context.decide("early comparison", rival.axis.words(rival.share), "dropped", _against(context, probe, other))
    if probe.error or probe.validation_drop is None:
        return Chosen(rivals[0])
    why = f"It lost least on the validation split after {seconds:.0f} s: {probe.validation_drop:.4f}."
    context.decide("early comparison", best.axis.words(best.share), "kept", why, predicted_speedup=best.speedup)
    return Chosen(best, head)


def _badness(probe: Probe) -> float:
    return float("inf") if probe.error or probe.validation_drop is None else probe.validation_drop


def _against(context: Context, best: Probe, other: Probe) -> str:
    if other.error or other.validation_drop is None or best.validation_drop is None:
        return other.error or "It was not measured."
    apart = other.validation_drop - best.validation_drop
    error = standard_error(max(apart, 0.0), context.question.validation_samples)
    sure = "" if apart > 2 * error else f", within two standard errors ({error:.4f})"
    return f"It lost {other.validation_drop:.4f} on the validation split, {apart:.4f} more than the best{sure}."
