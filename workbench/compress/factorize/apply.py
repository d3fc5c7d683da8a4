"""The Factorize step: choose ranks, look whether they pay, and put the split layers in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from workbench.compress.factorize.candidates import Spot, find_spots, put
from workbench.compress.factorize.ranks import by_budget, by_energy, by_noise, by_ratio, saves
from workbench.compress.factorize.split import Choice, Split, open_split
from workbench.compress.factorize.whiten import output_moments
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import display_name, matches, no_match_error
from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.recipe import Recipe
from workbench.compress.steps import Factorize
from workbench.compress.variant import LayerReport, Variant
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress

_LEAST = 1e-9


@dataclass(frozen=True)
class _Plan:
    """What takes a layer's place."""

    choice: Choice
    new: nn.Sequential


@register_handler(Factorize)
def factorize(step: Factorize, work: Work) -> Outcome:
    """Replace every layer that gets cheaper by it; see :class:`Factorize`."""
    module, example = work.module, work.task.examples(2)
    clock = _clock(step, work)
    kinds = {name: type(layer).__name__ for name, layer in module.named_modules()}
    spots, reasons = find_spots(step, module, example)
    own = _own_ratios(step, spots)
    plans = _one_by_one(step, work, spots, own) if step.budget is None else _in_budget(step, work, spots, own)
    touched: dict[str, str] = {}
    for spot in spots:
        plan = plans[spot.name]
        if isinstance(plan, str):
            reasons[spot.name] = plan
            continue
        put(module, spot.names, plan.new)
        pays, timed = clock.judge() if clock else (True, "")
        if pays:
            touched[spot.name] = f"{_what(step, plan.choice)}; {_fewer(spot, plan.choice)}{timed}"
        else:
            put(module, spot.names, spot.layer)
            reasons[spot.name] = f"{_what(step, plan.choice)}{timed}"
    named = touched | reasons
    return Outcome(
        module, tuple(LayerReport(display_name(n), kinds[n], n in touched, named[n]) for n in kinds if n in named)
    )


def _own_ratios(step: Factorize, spots: Sequence[Spot]) -> dict[str, float]:
    """Return the ratios that ``step.ratios`` gives to layers by name."""
    found: dict[str, float] = {}
    for entry in step.ratios:
        pattern, _, value = entry.rpartition("=")
        matched = [spot.name for spot in spots if any(matches(name, pattern) for name in spot.names)]
        if not matched:
            names = [spot.name for spot in spots]
            raise no_match_error("Factorize.ratios: no layer that can be split is called", pattern, names)
        found.update(dict.fromkeys(matched, float(value)))
    return found


def _one_by_one(step: Factorize, work: Work, spots: Sequence[Spot], own: Mapping[str, float]) -> dict[str, _Plan | str]:
    """Return for each layer what takes its place, or why it stays."""
    grams = output_moments(spots, work) if step.whiten else {}
    plans: dict[str, _Plan | str] = {}
    for index, spot in enumerate(spots):
        work.progress(Progress("factorize", index, len(spots), spot.name))
        if own.get(spot.name) == 1:
            plans[spot.name] = "left whole: its ratio is 1"
            continue
        splits = [open_split(spot, method, grams.get(spot.name)) for method in spot.methods(step.conv)]
        choice = _choice(step, splits, own.get(spot.name, step.ratio))
        why = "nothing in its weight stands out of the noise" if choice is None else _refused(step, spot, choice)
        if choice is None or why is not None:
            plans[spot.name] = str(why)
            continue
        split = next(split for split in splits if split.method == choice.method)
        plans[spot.name] = _Plan(choice, split.make(choice.ranks))
    return plans


def _choice(step: Factorize, splits: Sequence[Split], ratio: float | None) -> Choice | None:
    if ratio is None and step.rank == "vbmf":
        return by_noise(splits, step.of)
    tables = [split.table() for split in splits]
    return by_energy(tables, step.energy, step.of) if ratio is None else by_ratio(tables, ratio, step.of)


def _in_budget(step: Factorize, work: Work, spots: Sequence[Spot], own: Mapping[str, float]) -> dict[str, _Plan | str]:
    """Return for each layer what takes its place, so that the whole model keeps ``step.budget`` of its cost."""
    share = step.budget or 0.0
    total = count_params(work.module) if step.of == "params" else count_macs(work.module, work.task.examples(2))
    plans = _one_by_one(step, work, [spot for spot in spots if spot.name in own], own)
    wanted = (1 - share) * total
    for spot in spots:
        plan = plans.get(spot.name)
        if isinstance(plan, _Plan):
            wanted -= getattr(_whole(spot), step.of) - getattr(plan.choice, step.of)
    free = [spot for spot in spots if spot.name not in own]
    tables = {}
    for index, spot in enumerate(free):
        work.progress(Progress("factorize", index, len(free), spot.name))
        tables[spot.name] = [open_split(spot, method).table() for method in spot.methods(step.conv)]
    whole = {spot.name: _whole(spot) for spot in free}
    chosen, missing = by_budget(tables, whole, wanted, step.of, least=max(step.min_saving, _LEAST))
    if missing > 0:
        raise ConfigError(
            f"Factorize(budget={share:g}, of={step.of!r}) cannot be met: with every layer that can be split at its "
            f"lowest rank, {share + missing / total:.0%} of the model's {step.of} are left. Take a larger budget, or "
            "more kinds of layer (types) or ways to cut (conv='auto')."
        )
    for spot in free:
        choice = chosen.get(spot.name)
        stays = "stays whole: the budget is met without it"
        plans[spot.name] = (
            stays if choice is None else _Plan(choice, open_split(spot, choice.method).make(choice.ranks))
        )
    return plans


def _refused(step: Factorize, spot: Spot, choice: Choice) -> str | None:
    """Return why a choice does not pay, or None."""
    if saves(choice, _whole(spot), max(step.min_saving, _LEAST)):
        return None
    any_gain = saves(choice, _whole(spot), _LEAST)
    limit = f"below min_saving {step.min_saving:.0%}" if any_gain else "past the break-even"
    return f"{_what(step, choice)}; {_fewer(spot, choice)}: {limit}"


def _whole(spot: Spot) -> Choice:
    return Choice("", (), (), 1.0, spot.params, spot.macs)


def _what(step: Factorize, choice: Choice) -> str:
    """Return words for a choice: ``"spatial rank 8 of 48 keeps 91.2% of the energy"``."""
    ranks = " and ".join(f"{rank} of {full}" for rank, full in zip(choice.ranks, choice.full, strict=True))
    way = "" if choice.method == "svd" else f"{choice.method} "
    energy = "the energy of its outputs" if step.whiten else "the energy"
    return f"{way}rank{'s' if len(choice.ranks) > 1 else ''} {ranks} keeps {choice.kept:.1%} of {energy}"


def _fewer(spot: Spot, choice: Choice) -> str:
    """Return words for what a choice saves: ``"34% fewer parameters and MACs"``."""
    params = f"{abs(1 - choice.params / spot.params):.0%} {'fewer' if choice.params < spot.params else 'more'}"
    if not spot.macs:
        return f"{params} parameters, {choice.macs:,.0f} MACs more"
    macs = f"{abs(1 - choice.macs / spot.macs):.0%} {'fewer' if choice.macs < spot.macs else 'more'}"
    return f"{params} parameters and MACs" if params == macs else f"{params} parameters, {macs} MACs"


class _Clock:
    """Says by the engine's own time whether a split pays."""

    def __init__(self, cost: Callable[[Variant], float], work: Work) -> None:
        self._cost, self._work = cost, work
        self._best = self._time()

    def judge(self) -> tuple[bool, str]:
        """Return whether the module as it is now is the fastest so far, and the figures in words."""
        before, now = self._best, self._time()
        self._best = min(before, now)
        pays = now < before
        return pays, f"; measured {before:.4g} -> {now:.4g} ms{'' if pays else ': past the measured break-even'}"

    def _time(self) -> float:
        task, module = self._work.task, self._work.module
        # what a variant costs has nothing to do with its quality, which is not measured for a trial
        macs = count_macs(module, task.examples(2))
        return float(self._cost(Variant(module, Recipe(), (), task, False, count_params(module), macs, math.nan)))


def _clock(step: Factorize, work: Work) -> _Clock | None:
    if not step.measured:
        return None
    if work.cost is None:
        raise ConfigError(
            f"Factorize(measured=True) times the model on {step.engine} with and without each split layer, and was "
            "given nothing to time it with. Use recipe.apply(task, cost=wb.latency_cost(recipe)), or a function of "
            "your own that takes a Variant and returns milliseconds; or leave measured at False, which counts "
            "parameters and MACs."
        )
    return _Clock(work.cost, work)
