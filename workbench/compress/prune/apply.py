"""Structured pruning with torch-pruning: channels go away, outputs keep their shape, and each group is tried first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from workbench.compress.distill.apply import recover
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import display_name, holds_matrix, skip_reasons
from workbench.compress.model_ops import count_params
from workbench.compress.prune.budget import CostBudget
from workbench.compress.prune.channel_selection import own_ratios, select_channels
from workbench.compress.prune.groups import MODEL_OUTPUTS, PRUNABLE, Group, find_groups
from workbench.compress.prune.importance import scorer_for
from workbench.compress.prune.sparse_training import train_sparse
from workbench.compress.prune.tied_weights import describe_tie, find_ties
from workbench.compress.prune.verify_cut import TIED, Cut, apply_cuts, verify_cuts
from workbench.compress.schedule import scheduled_share
from workbench.compress.steps import Prune, Recover
from workbench.compress.variant import LayerReport
from workbench.core.progress import Progress
from workbench.tasks.module import copied_module

_RECURRENT = (
    "recurrent: its outputs are also its state, which all its gates share, so Prune does not cut it (train a narrower "
    "one with Distill(student=...), or use Sparsify or Quantize on the layers around it)"
)
_FAR = 0.1
_NOT_TRACED = "not found when the model was traced: it is not called, or forward overwrites its output in place"


@dataclass
class _State:
    """What lasts over the rounds: widths before the first, why layers stay whole, what broke."""

    widths: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    epochs: float = 0.0


@register_handler(Prune)
def prune(step: Prune, work: Work) -> Outcome:
    """Remove channels of the variant's module, group by group; see :class:`Prune`."""
    module, example = work.module, work.task.examples(2)
    shapes = _widths(module)
    budget, state = CostBudget(step, work), _State()
    before = copied_module(module) if step.rewind else None
    if step.sparse_epochs:
        state.epochs += train_sparse(step, work, _groups(step, work, state)[0])
    for number in range(1, step.rounds + 1):
        cuts = _round(step, work, state, budget, scheduled_share(step.schedule, number / step.rounds))
        apply_cuts(module, cuts, example)
        if before is not None:
            apply_cuts(before, cuts, example)
            module.load_state_dict(before.state_dict())
        module.eval()
        if step.recover_epochs and number < step.rounds:
            between = replace(work, seed=work.seed + number)
            state.epochs += recover(Recover(epochs=step.recover_epochs), between).epochs_done
    layers = _report(module, shapes, state.reasons | state.broken)
    notes = (*_notes(step, state, module), *_missed(step, module, shapes, state.reasons), *budget.notes())
    return Outcome(module, layers, state.epochs, notes)


def _groups(step: Prune, work: Work, state: _State) -> tuple[list[Group], dict[str, str]]:
    module = work.module
    blocked = skip_reasons(module, step.include, step.exclude, where="Prune") | state.broken
    scorer = scorer_for(step, module, work)
    found = find_groups(module, work.task.examples(2), scorer, skip_reasons=blocked, round_to=step.round_to)
    module.zero_grad(set_to_none=True)
    return found


def _round(step: Prune, work: Work, state: _State, budget: CostBudget, share: float) -> list[Cut]:
    """Return the cuts, each of which was tried, that bring the module to ``share`` of the way."""
    groups, reasons = _groups(step, work, state)
    own = {root: share * value for root, value in own_ratios(step, groups).items()}
    state.widths = {group.root: group.width for group in groups} | state.widths
    ratio = share * step.ratio
    # Of the channels it is a share at once; for a budget, cuts of about that size show first which groups break.
    good, broken = _tried(step, work, state, groups, reasons, ratio, own)
    while step.of != "channels":
        groups = [group for group in groups if not broken & {group.root}]

        def cuts_at(ratio: float, groups: list[Group] = groups) -> list[Cut]:
            return select_channels(step, groups, ratio, own=own, whole=state.widths)[0]

        found = budget.ratio(work.module, ratio, cuts_at)
        good, broken = _tried(step, work, state, groups, reasons, found, own)
        if not broken:
            break
    return good


def _tried(
    step: Prune,
    work: Work,
    state: _State,
    groups: Sequence[Group],
    reasons: dict[str, str],
    ratio: float,
    own: dict[str, float],
) -> tuple[list[Cut], set[str]]:
    """Return the cuts at ``ratio`` that keep the model whole, and the roots of the groups where it breaks."""
    cuts, whole = select_channels(step, groups, ratio, own=own, whole=state.widths)
    state.reasons = reasons | whole
    work.progress(Progress("prune", 0, 1, f"trying {len(cuts)} groups"))
    good, broken = verify_cuts(work.module, cuts, work.task.examples(2))
    state.broken.update({name: why for cut, why in broken for name in cut.members})
    return good, {cut.root for cut, _ in broken}


def _widths(module: nn.Module) -> dict[str, tuple[int, ...]]:
    kinds = (*PRUNABLE, nn.Embedding)
    return {name: tuple(m.weight.shape) for name, m in module.named_modules() if isinstance(m, kinds)}


def _report(module: nn.Module, before: dict[str, tuple[int, ...]], reasons: dict[str, str]) -> tuple[LayerReport, ...]:
    reports = []
    for name, layer in module.named_modules():
        if name not in before:
            if holds_matrix(layer):
                reports.append(LayerReport(display_name(name), type(layer).__name__, False, _why_not_looked_at(layer)))
            continue
        old, new = before[name], tuple(layer.weight.shape)
        changed = [side for side in _sides(layer, old, new) if side[1] != side[2]]
        changes = [f"{word} {a} -> {b}" for word, a, b in changed]
        cut = any(word == "outputs" for word, *_ in changed)
        own = f"; {'then no more' if cut else 'outputs kept'}: {reasons[name]}" if name in reasons else ""
        why = _why_not_looked_at(layer) if isinstance(layer, nn.Embedding) else _NOT_TRACED
        reason = ", ".join(changes) + own if changes else reasons.get(name, why)
        reports.append(LayerReport(display_name(name), type(layer).__name__, bool(changes), reason))
    return tuple(reports)


def _missed(
    step: Prune, module: nn.Module, before: dict[str, tuple[int, ...]], reasons: dict[str, str]
) -> tuple[str, ...]:
    """Return a note if the share of channels that left is far from what was asked for."""
    if step.of != "channels" or step.ratios:
        return ()
    old = new = 0
    for name, shape in before.items():
        layer = module.get_submodule(name)
        if reasons.get(name) != MODEL_OUTPUTS and not isinstance(layer, nn.Embedding):
            _, had, has = _sides(layer, shape, tuple(layer.weight.shape))[0]  # type: ignore[arg-type]
            old, new = old + had, new + has
    if not old or abs(1 - new / old - step.ratio) <= _FAR:
        return ()
    return (
        f"{1 - new / old:.0%} of the channels are gone, where {step.ratio:.0%} were asked for: some layers cannot be "
        f"cut, and others leave in steps of round_to={step.round_to} or of their own. The layers' reports say which.",
    )


def _why_not_looked_at(layer: nn.Module) -> str:
    if isinstance(layer, nn.RNNBase):
        return _RECURRENT
    if isinstance(layer, nn.Embedding):
        return "a table that is looked up: its width is that of what reads it, which stays whole"
    if isinstance(layer, nn.MultiheadAttention):
        return "query, key and value are projected by one joined weight; Prune does not cut it"
    return f"Prune does not know how a {type(layer).__name__} is cut"


def _sides(
    layer: nn.Module, old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
    by_column = isinstance(layer, nn.Embedding) or getattr(layer, "transposed", False)
    out, into = (1, 0) if by_column else (0, 1)
    return ("outputs", old[out], new[out]), ("inputs", old[into], new[into])


def _notes(step: Prune, state: _State, module: nn.Module) -> tuple[str, ...]:
    notes = []
    tied = [name for name, why in state.broken.items() if TIED in why]
    if tied:
        notes.append(
            f"{len(tied)} layers were left alone ({', '.join(tied)}), because cutting them would make several tensors "
            f"of a weight that layers share: {count_params(module):,} parameters are left."
        )
    ties = find_ties(module)
    if ties:
        notes.append(f"Weights that layers share are still one tensor: {'; '.join(map(describe_tie, ties))}.")
    if len(state.broken) > len(tied):
        notes.append(
            f"{len(state.broken) - len(tied)} layers were left alone, because the model breaks or computes something "
            "else without their channels (fixed sizes in its forward)."
        )
    if step.rewind:
        notes.append(
            "Weight rewinding: the surviving weights have their values from before this step; its training only chose "
            "what to cut. Train after it, with Distill or Recover."
        )
    return tuple(notes)
