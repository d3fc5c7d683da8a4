"""Carry out Factorize: choose ranks, check the savings, and replace layers by their factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from workbench.compress.factorize.candidates import CandidateLayer, find_candidates, replace_layer
from workbench.compress.factorize.decomposition import Decomposition, RankChoice, decompose
from workbench.compress.factorize.ranks import by_budget, by_energy, by_noise, by_ratio, saves
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
    """The replacement of a layer."""

    choice: RankChoice
    new: nn.Sequential


@register_handler(Factorize)
def factorize(step: Factorize, work: Work) -> Outcome:
    """Replace every layer that gets cheaper; see :class:`Factorize`."""
    module, example = work.module, work.task.examples(2)
    latency = _latency_check(step, work)
    kinds = {name: type(layer).__name__ for name, layer in module.named_modules()}
    candidates, reasons = find_candidates(step, module, example)
    own = _own_ratios(step, candidates)
    plans = _one_by_one(step, work, candidates, own) if step.budget is None else _in_budget(step, work, candidates, own)
    touched: dict[str, str] = {}
    for candidate in candidates:
        plan = plans[candidate.name]
        if isinstance(plan, str):
            reasons[candidate.name] = plan
            continue
        replace_layer(module, candidate.names, plan.new)
        faster, timed = latency.improved() if latency else (True, "")
        if faster:
            touched[candidate.name] = f"{_what(step, plan.choice)}; {_fewer(candidate, plan.choice)}{timed}"
        else:
            replace_layer(module, candidate.names, candidate.layer)
            reasons[candidate.name] = f"{_what(step, plan.choice)}{timed}"
    named = touched | reasons
    return Outcome(
        module, tuple(LayerReport(display_name(n), kinds[n], n in touched, named[n]) for n in kinds if n in named)
    )


def _own_ratios(step: Factorize, candidates: Sequence[CandidateLayer]) -> dict[str, float]:
    """Return the ratio of each layer in ``step.ratios``."""
    ratios: dict[str, float] = {}
    for entry in step.ratios:
        pattern, _, value = entry.rpartition("=")
        matched = [
            candidate.name for candidate in candidates if any(matches(name, pattern) for name in candidate.names)
        ]
        if not matched:
            names = [candidate.name for candidate in candidates]
            raise no_match_error("Factorize.ratios: no layer that can be split is called", pattern, names)
        ratios.update(dict.fromkeys(matched, float(value)))
    return ratios


def _one_by_one(
    step: Factorize, work: Work, candidates: Sequence[CandidateLayer], own: Mapping[str, float]
) -> dict[str, _Plan | str]:
    """Return the plan for each layer, or the reason why it stays."""
    grams = output_moments(candidates, work) if step.whiten else {}
    plans: dict[str, _Plan | str] = {}
    for index, candidate in enumerate(candidates):
        work.progress(Progress("factorize", index, len(candidates), candidate.name))
        if own.get(candidate.name) == 1:
            plans[candidate.name] = "unchanged: its ratio is 1"
            continue
        gram = grams.get(candidate.name)
        options = [decompose(candidate, method, gram) for method in candidate.methods(step.conv)]
        choice = _choice(step, options, own.get(candidate.name, step.ratio))
        reason = "no singular value above the noise" if choice is None else _refused(step, candidate, choice)
        if choice is None or reason is not None:
            plans[candidate.name] = str(reason)
            continue
        chosen = next(option for option in options if option.method == choice.method)
        plans[candidate.name] = _Plan(choice, chosen.make(choice.ranks))
    return plans


def _choice(step: Factorize, decompositions: Sequence[Decomposition], ratio: float | None) -> RankChoice | None:
    if ratio is None and step.rank == "vbmf":
        return by_noise(decompositions, step.of)
    tables = [decomposition.table() for decomposition in decompositions]
    return by_energy(tables, step.energy, step.of) if ratio is None else by_ratio(tables, ratio, step.of)


def _in_budget(
    step: Factorize, work: Work, candidates: Sequence[CandidateLayer], own: Mapping[str, float]
) -> dict[str, _Plan | str]:
    """Return the plan for each layer so that the whole model keeps ``step.budget`` of its cost."""
    share = step.budget or 0.0
    total = count_params(work.module) if step.of == "params" else count_macs(work.module, work.task.examples(2))
    plans = _one_by_one(step, work, [candidate for candidate in candidates if candidate.name in own], own)
    excess = (1 - share) * total
    for candidate in candidates:
        plan = plans.get(candidate.name)
        if isinstance(plan, _Plan):
            excess -= getattr(_whole(candidate), step.of) - getattr(plan.choice, step.of)
    free = [candidate for candidate in candidates if candidate.name not in own]
    tables = {}
    for index, candidate in enumerate(free):
        work.progress(Progress("factorize", index, len(free), candidate.name))
        tables[candidate.name] = [decompose(candidate, method).table() for method in candidate.methods(step.conv)]
    whole = {candidate.name: _whole(candidate) for candidate in free}
    chosen, missing = by_budget(tables, whole, excess, step.of, least=max(step.min_saving, _LEAST))
    if missing > 0:
        raise ConfigError(
            f"Factorize(budget={share:g}, of={step.of!r}) cannot be met: at the lowest ranks "
            f"{share + missing / total:.0%} of the model's {step.of} remain. Use a larger budget, more types, or "
            "conv='auto'."
        )
    for candidate in free:
        choice = chosen.get(candidate.name)
        stays = "unchanged: the budget is met without it"
        plans[candidate.name] = (
            stays if choice is None else _Plan(choice, decompose(candidate, choice.method).make(choice.ranks))
        )
    return plans


def _refused(step: Factorize, candidate: CandidateLayer, choice: RankChoice) -> str | None:
    """Return why a choice saves too little, or None."""
    if saves(choice, _whole(candidate), max(step.min_saving, _LEAST)):
        return None
    any_gain = saves(choice, _whole(candidate), _LEAST)
    limit = f"below min_saving {step.min_saving:.0%}" if any_gain else "past the break-even"
    return f"{_what(step, choice)}; {_fewer(candidate, choice)}: {limit}"


def _whole(candidate: CandidateLayer) -> RankChoice:
    return RankChoice("", (), (), 1.0, candidate.params, candidate.macs)


def _what(step: Factorize, choice: RankChoice) -> str:
    """Describe a choice: ``"spatial rank 8 of 48 keeps 91.2% of the energy"``."""
    ranks = " and ".join(f"{rank} of {full}" for rank, full in zip(choice.ranks, choice.full, strict=True))
    way = "" if choice.method == "svd" else f"{choice.method} "
    energy = "the energy of its outputs" if step.whiten else "the energy"
    return f"{way}rank{'s' if len(choice.ranks) > 1 else ''} {ranks} keeps {choice.kept:.1%} of {energy}"


def _fewer(candidate: CandidateLayer, choice: RankChoice) -> str:
    """Describe the savings of a choice: ``"34% fewer parameters and MACs"``."""
    params = (
        f"{abs(1 - choice.params / candidate.params):.0%} {'fewer' if choice.params < candidate.params else 'more'}"
    )
    if not candidate.macs:
        return f"{params} parameters, {choice.macs:,.0f} MACs more"
    macs = f"{abs(1 - choice.macs / candidate.macs):.0%} {'fewer' if choice.macs < candidate.macs else 'more'}"
    return f"{params} parameters and MACs" if params == macs else f"{params} parameters, {macs} MACs"


class _LatencyCheck:
    """Compare the module's measured latency with its best so far."""

    def __init__(self, cost: Callable[[Variant], float], work: Work) -> None:
        self._cost, self._work = cost, work
        self._best = self._time()

    def improved(self) -> tuple[bool, str]:
        """Return whether the current module is the fastest so far, and a description."""
        before, now = self._best, self._time()
        self._best = min(before, now)
        faster = now < before
        return faster, f"; measured {before:.4g} -> {now:.4g} ms{'' if faster else ': past the measured break-even'}"

    def _time(self) -> float:
        task, module = self._work.task, self._work.module
        # the latency does not depend on the quality, which is not measured here
        macs = count_macs(module, task.examples(2))
        return float(self._cost(Variant(module, Recipe(), (), task, False, count_params(module), macs, math.nan)))


def _latency_check(step: Factorize, work: Work) -> _LatencyCheck | None:
    if not step.measured:
        return None
    if work.cost is None:
        raise ConfigError(
            f"Factorize(measured=True) needs a cost function that times variants on {step.engine}. Use "
            "recipe.apply(task, cost=wb.latency_cost(recipe)), or measured=False."
        )
    return _LatencyCheck(work.cost, work)
