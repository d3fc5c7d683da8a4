"""Structured pruning with torch-pruning: channels go away, outputs keep their shape, and each group is tried first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import nn

from workbench.compress.apply import Outcome, Work
from workbench.compress.distill import recover
from workbench.compress.names import excluded_names
from workbench.compress.prune.choose import choose, own_ratios
from workbench.compress.prune.groups import PRUNABLE, find_groups
from workbench.compress.prune.importance import judge_for
from workbench.compress.prune.trial import Cut, apply_cuts, surviving
from workbench.compress.steps import Prune, Recover
from workbench.compress.variant import LayerReport, count_macs, count_params
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress

# A budget of MACs or parameters is met within this share of it, where whole channels allow.
_CLOSE = 0.01
_HALVINGS = 10
_MOST = 0.95


@dataclass
class _State:
    """What lasts over the rounds: widths and cost before the first, why layers stay whole, what broke."""

    cost: int
    widths: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    epochs: float = 0.0


def prune(step: Prune, work: Work) -> Outcome:
    """Remove channels of the variant's module, group by group; see :class:`Prune`."""
    module = work.module
    shapes = _widths(module)
    state = _State(_cost(step, module, work))
    for number in range(1, step.rounds + 1):
        done = number / step.rounds
        cuts = _round(step, work, state, done if step.schedule == "even" else 1 - (1 - done) ** 3)
        apply_cuts(module, cuts, work.task.examples(2))
        module.eval()
        if step.recover_epochs and number < step.rounds:
            between = replace(work, seed=work.seed + number)
            state.epochs += recover(Recover(epochs=step.recover_epochs), between).epochs_done
    layers = _report(module, shapes, state.reasons | state.broken)
    return Outcome(module, layers, state.epochs, _notes(state))


def _round(step: Prune, work: Work, state: _State, share: float) -> list[Cut]:
    """Return the cuts, each of which was tried, that bring the module to ``share`` of the way."""
    module, example = work.module, work.task.examples(2)
    excluded = excluded_names(module, step.exclude, where="Prune") | state.broken.keys()
    judge = judge_for(step, module, work)
    groups, reasons = find_groups(module, example, judge, excluded=excluded, round_to=step.round_to)
    module.zero_grad(set_to_none=True)
    own = {root: share * value for root, value in own_ratios(step, groups).items()}
    state.widths = {group.root: group.width for group in groups} | state.widths

    def choice(ratio: float) -> tuple[list[Cut], dict[str, str]]:
        return choose(step, groups, ratio, own=own, whole=state.widths)

    while True:
        ratio = share * step.ratio
        if step.of != "channels":
            ratio = _ratio_for_budget(step, work, state, (1 - ratio) * state.cost, lambda ratio: choice(ratio)[0])
        cuts, whole = choice(ratio)
        state.reasons = reasons | whole
        work.progress(Progress("prune", 0, 1, f"trying {len(cuts)} groups"))
        good, broken = surviving(module, cuts, example)
        state.broken.update({name: why for cut, why in broken for name in cut.members})
        if not broken or step.of == "channels":
            return good
        gone = {cut.root for cut, _ in broken}
        groups = [group for group in groups if group.root not in gone]


def _ratio_for_budget(
    step: Prune, work: Work, state: _State, budget: float, cuts_at: Callable[[float], list[Cut]]
) -> float:
    """Return the smallest ratio of channels that brings the MACs or parameters down to ``budget``."""

    def cost_at(ratio: float) -> int:
        trial = copy.deepcopy(work.module)
        apply_cuts(trial, cuts_at(ratio), work.task.examples(2))
        return _cost(step, trial, work)

    low, high = 0.0, _MOST
    least = cost_at(_MOST)
    if least > budget * (1 + _CLOSE):
        raise ConfigError(
            f"Prune(ratio={step.ratio:g}, of={step.of!r}) cannot be met: with all but one channel in "
            f"{1 / (1 - _MOST):.0f} taken away, {least / state.cost:.0%} of the {step.of} are left. Take a smaller "
            "ratio or round_to."
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        cost = cost_at(middle)
        if cost > budget:
            low = middle
            continue
        high = middle
        if cost >= budget - _CLOSE * state.cost:
            break
    return high


def _cost(step: Prune, module: nn.Module, work: Work) -> int:
    if step.of == "channels":
        return 0
    return count_params(module) if step.of == "params" else count_macs(module, work.task.examples(2))


def _widths(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(m.weight.shape) for name, m in module.named_modules() if isinstance(m, PRUNABLE)}


def _report(module: nn.Module, before: dict[str, tuple[int, ...]], reasons: dict[str, str]) -> tuple[LayerReport, ...]:
    reports = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase):
            why = "recurrent: its outputs are also its state, which all its gates share; Prune does not cut it"
            reports.append(LayerReport(name, type(layer).__name__, False, why))
        if name not in before:
            continue
        old, new = before[name], tuple(layer.weight.shape)
        changes = [f"{word} {a} -> {b}" for word, a, b in _sides(layer, old, new) if a != b]
        own = f"; outputs kept: {reasons[name]}" if name in reasons else ""
        reason = ", ".join(changes) + own if changes else reasons.get(name, "not reached from the model's inputs")
        reports.append(LayerReport(name, type(layer).__name__, bool(changes), reason))
    return tuple(reports)


def _sides(
    layer: nn.Module, old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
    out, into = (1, 0) if getattr(layer, "transposed", False) else (0, 1)
    return ("outputs", old[out], new[out]), ("inputs", old[into], new[into])


def _notes(state: _State) -> tuple[str, ...]:
    if not state.broken:
        return ()
    return (
        f"{len(state.broken)} layers were left alone, because the model breaks or computes something else without "
        "their channels (fixed sizes in its forward).",
    )
