"""The survey: every technique appears in the report, at low fidelity if it does not lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.compress.steps import Prune, Quantize, Sparsify
from workbench.study.strategy.axes import PROBED, Steps, distill, probe_steps, recover
from workbench.study.strategy.axis_selection import depth_options
from workbench.study.strategy.context import LEAST_TRAINING_S, Context, Leader
from workbench.study.strategy.training_free import SIMULATED, SIMULATED_NOTE

_LONG_S = 600.0
_QAT_SHARE, _TRAIN_SHARE = 0.04, 0.015
_MOST_S = 40.0
_FINISH, _KEEP = 0.7, 0.4
"""A float variant on one engine takes less to finish than int8 on each."""
NOTE = "Survey: a short training and few rounds of timing, because this technique does not lead here."
TRAINED = "Survey: the recommended structure without int8, timed in few rounds."
MASKED = "Survey: zeros do not lower the latency on this engine. Timed once, not evaluated."


@dataclass(frozen=True)
class Item:
    """One technique of the survey. ``judged`` is False if it is not evaluated."""

    name: str
    steps: Steps
    engine: str
    note: str = NOTE
    judged: bool = True
    train_s: float = 0.0


def survey(context: Context, leader: Leader, trained: Steps) -> None:
    """Measure what the plan did not lead to, as long as it fits; what does not fit is noted."""
    for item in _items(context, leader, trained):
        if item.name in context.unsupported:
            context.decide("survey", item.name, "dropped", context.unsupported[item.name])
            continue
        predicted = item.train_s + _FINISH * context.finish_s
        entered = context.record.facts.get(f"survey {item.name}")
        if entered is None and (context.record.frozen or context.work.remaining() < 1.2 * predicted + 2.0):
            context.decide("survey", item.name, "not begun", "The time left is too short.")
            continue
        context.record.once(f"survey {item.name}", lambda: True)
        recipe = context.recipe(item.steps, item.name)
        keep_s = _KEEP * context.finish_s
        results = context.measure(
            recipe, [item.engine], predicted_s=predicted, survey=item.note, judged=item.judged, keep_s=keep_s
        )
        for result in results:
            if result.complete:
                ratio = (result.speedup or 0.0) / leader.speedup
                context.decide("survey", item.name, "survey", item.note, speedup=ratio, drop=result.drop)
            else:
                context.decide("survey", item.name, "survey", result.reason or "It has no result.")


def _items(context: Context, leader: Leader, trained: Steps) -> Sequence[Item]:
    budget, engine = context.question.budget_s, leader.engine
    most_s = round(min(_MOST_S, _TRAIN_SHARE * budget), 1)
    train_s = float(context.record.once("survey seconds", lambda: most_s) or 0.0)
    trains = context.question.train_samples > 0 and train_s >= LEAST_TRAINING_S / 2
    after: Steps = (recover(train_s),) if trains else ()
    seconds = train_s if trains else 0.0
    options = depth_options(context, leader)
    depth, rank = (probe_steps(name, PROBED[name], options) for name in ("depth", "rank"))
    items = [
        _item("depth", (*depth, *after), engine, seconds, trained),
        _item("prune", (Prune(ratio=0.3), *after), engine, seconds, trained),
        Item("factorize", (*rank, *after), engine, train_s=seconds),
    ]
    if SIMULATED in context.question.backends:
        items.append(Item("quantize", (Quantize(),), SIMULATED, SIMULATED_NOTE, judged=False))
    if trains:
        epoch_s = float(context.record.once("survey epoch_s", lambda: context.epoch_s or 0.0) or 0.0)
        taught = distill(train_s, epochs=6.0, epoch_s=epoch_s or None)
        items.append(Item("distill", (Prune(ratio=0.3), taught), engine, train_s=seconds))
    items.append(Item("sparsify", (Sparsify(ratio=0.5),), engine, MASKED, judged=False))
    if trains and budget >= _LONG_S:
        qat_s = _QAT_SHARE * budget
        qat = Quantize(qat_epochs=3, max_seconds=round(qat_s, 1))
        items.append(Item("quantize-qat", (qat,), engine, train_s=qat_s))
    return items


def _item(name: str, steps: Steps, engine: str, train_s: float, trained: Steps) -> Item:
    """Return the item of a technique: what the plan has trained, if that began with this technique."""
    if trained and steps and type(trained[0]) is type(steps[0]):
        return Item(name, trained, engine, TRAINED)
    return Item(name, steps, engine, train_s=train_s)
