"""Carry out Factorize: choose ranks, check the savings, and replace layers by their factors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from workbench.compress.factorize.candidates import CandidateLayer, Convolution, find_candidates, replace_layer
from workbench.compress.factorize.decomposition import Decomposition, RankChoice, decompose
from workbench.compress.factorize.ranks import by_budget, by_energy, by_noise, by_ratio, saves
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import display_name, values_by_layer
from workbench.compress.model_ops import count_macs, count_params, removing
from workbench.compress.steps import Factorize
from workbench.compress.variant import LayerReport
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress
from workbench.tasks.trees import call_model

_LEAST = 1e-9
_BATCH = 32

Plan = tuple[RankChoice, nn.Sequential] | str
"""The ranks of a layer and what replaces it, or the reason why it stays."""


@register_handler(Factorize)
def factorize(step: Factorize, work: Work) -> Outcome:
    """Replace every layer that gets cheaper; see :class:`Factorize`."""
    module, example = work.module, work.task.examples(2)
    best = work.cost_of(module) if step.measured else math.inf
    kinds = {name: type(layer).__name__ for name, layer in module.named_modules()}
    candidates, reasons = find_candidates(step, module, example)
    names = {candidate.name: candidate.names for candidate in candidates}
    own = values_by_layer(step.ratios, names, "Factorize.ratios: no layer that can be split is called")
    plans = _one_by_one(step, work, candidates, own) if step.budget is None else _in_budget(step, work, candidates, own)
    touched: dict[str, str] = {}
    for candidate in candidates:
        plan = plans[candidate.name]
        if isinstance(plan, str):
            reasons[candidate.name] = plan
            continue
        choice, new = plan
        replace_layer(module, candidate.names, new)
        words, timed = _what(step, choice), ""
        if step.measured:
            before, now = best, work.cost_of(module)
            timed = f"; measured {before:.4g} -> {now:.4g} ms"
            if now >= before:
                replace_layer(module, candidate.names, candidate.layer)
                reasons[candidate.name] = f"{words}{timed}: past the measured break-even"
                continue
            best = now
        touched[candidate.name] = f"{words}; {_fewer(candidate, choice)}{timed}"
    named = touched | reasons
    layers = [
        LayerReport(display_name(name), kinds[name], name in touched, named[name]) for name in kinds if name in named
    ]
    return Outcome(module, tuple(layers))


def _one_by_one(
    step: Factorize, work: Work, candidates: Sequence[CandidateLayer], own: Mapping[str, float]
) -> dict[str, Plan]:
    """Return the plan for each layer, or the reason why it stays."""
    grams = _output_moments(candidates, work) if step.whiten else {}
    plans: dict[str, Plan] = {}
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
        plans[candidate.name] = (choice, chosen.make(choice.ranks))
    return plans


def _choice(step: Factorize, decompositions: Sequence[Decomposition], ratio: float | None) -> RankChoice | None:
    if ratio is None and step.rank == "vbmf":
        return by_noise(decompositions, step.of)
    tables = [decomposition.table() for decomposition in decompositions]
    return by_energy(tables, step.energy, step.of) if ratio is None else by_ratio(tables, ratio, step.of)


def _in_budget(
    step: Factorize, work: Work, candidates: Sequence[CandidateLayer], own: Mapping[str, float]
) -> dict[str, Plan]:
    """Return the plan for each layer so that the whole model keeps ``step.budget`` of its cost."""
    share = step.budget or 0.0
    total = count_params(work.module) if step.of == "params" else count_macs(work.module, work.task.examples(2))
    plans = _one_by_one(step, work, [candidate for candidate in candidates if candidate.name in own], own)
    excess = (1 - share) * total
    for candidate in candidates:
        plan = plans.get(candidate.name)
        if isinstance(plan, tuple):
            excess -= getattr(_whole(candidate), step.of) - getattr(plan[0], step.of)
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
        if choice is None:
            plans[candidate.name] = "unchanged: the budget is met without it"
        else:
            plans[candidate.name] = (choice, decompose(candidate, choice.method).make(choice.ranks))
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

    def change(now: float, before: float) -> str:
        return f"{abs(1 - now / before):.0%} {'fewer' if now < before else 'more'}"

    params = change(choice.params, candidate.params)
    if not candidate.macs:
        return f"{params} parameters, {choice.macs:,.0f} MACs more"
    macs = change(choice.macs, candidate.macs)
    return f"{params} parameters and MACs" if params == macs else f"{params} parameters, {macs} MACs"


class _OutputMoments:
    """Second moments ``Y Y^T [groups, out, out]`` of a layer's outputs without bias.

    For a Linear with fewer inputs than outputs they are computed from ``X X^T``, which is smaller.
    """

    def __init__(self, candidate: CandidateLayer) -> None:
        groups, out, into = candidate.weight.flatten(2).shape
        self.candidate = candidate
        self.from_inputs = not isinstance(candidate.layer, Convolution | nn.Embedding) and into < out
        size = into if self.from_inputs else out
        self.total = torch.zeros(groups, size, size, dtype=torch.float64)

    def add(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """Add the outputs of one call: a forward hook."""
        values = (inputs[0] if self.from_inputs else output).detach().double()
        if isinstance(layer, Convolution):
            values = values.movedim(-len(layer.kernel_size) - 1, -1)
        values = values.flatten(0, -2)
        bias: Any = getattr(layer, "bias", None)
        if bias is not None and not self.from_inputs:
            values = values - bias.detach().double()
        parts = values.reshape(len(values), self.candidate.groups, -1).transpose(0, 1)
        self.total.add_(parts.mT @ parts)

    def of_outputs(self) -> torch.Tensor:
        """Return the moments of the outputs over all calls."""
        weight = self.candidate.weight.flatten(2)
        return weight @ self.total @ weight.mT if self.from_inputs else self.total


def _output_moments(candidates: Sequence[CandidateLayer], work: Work) -> dict[str, torch.Tensor]:
    """Return the moments of each layer over the calibration samples."""
    moments = [_OutputMoments(candidate) for candidate in candidates]
    batches = list(work.task.calibration.batches(_BATCH))
    with removing(own.candidate.layer.register_forward_hook(own.add) for own in moments):
        for index, (inputs, _) in enumerate(batches):
            work.progress(Progress("factorize", index, len(batches), "running the calibration data"))
            with torch.enable_grad():  # fused attention kernels call no layer
                call_model(work.module, inputs)
    return {own.candidate.name: own.of_outputs() for own in moments}
