"""Handler of Prune: structured pruning with torch-pruning; each cut is verified first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from workbench.compress.distill.apply import recover
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import display_name, holds_matrix, skip_reasons, values_by_layer
from workbench.compress.model_ops import count_params
from workbench.compress.prune.budget import CostBudget
from workbench.compress.prune.channel_selection import scorer_for, select_channels
from workbench.compress.prune.groups import MODEL_OUTPUTS, PRUNABLE, Group, find_groups
from workbench.compress.prune.sparse_training import train_sparse
from workbench.compress.prune.verify_cut import TIED, Cut, apply_cuts, describe_tie, find_ties, verify_cuts
from workbench.compress.step import scheduled_share
from workbench.compress.steps import Prune, Recover
from workbench.compress.variant import LayerReport
from workbench.core.progress import Progress
from workbench.tasks.module import copy_module

_RECURRENT = (
    "recurrent: its outputs are also its state, shared by all its gates, so Prune does not cut it (train a narrower "
    "one with Distill(student=...), or use Sparsify or Quantize)"
)
_FAR = 0.1  # difference of the pruned share from the ratio that is noted
_NOT_TRACED = "not found in the trace: it is not called, or forward overwrites its output in place"


@dataclass
class _State:
    """State over the rounds: widths before the first, reasons of layers kept whole, broken groups."""

    step: Prune
    work: Work
    widths: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def groups(self) -> tuple[list[Group], dict[str, str]]:
        """Return the prunable groups with their importance, and the reasons of the other layers."""
        step, module = self.step, self.work.module
        blocked = skip_reasons(module, step.include, step.exclude, where="Prune") | self.broken
        scorer = scorer_for(step, self.work)
        groups = find_groups(module, self.work.task.examples(2), scorer, skip_reasons=blocked, round_to=step.round_to)
        module.zero_grad(set_to_none=True)
        return groups

    def cuts(self, budget: CostBudget, share: float) -> list[Cut]:
        """Return the verified cuts that bring the module to ``share`` of the target."""
        step, ratio = self.step, share * self.step.ratio
        groups, reasons = self.groups()
        members = {group.root: group.members for group in groups}
        ratios = values_by_layer(step.ratios, members, "Prune.ratios: no layer whose channels can be cut is called")
        own = {root: share * value for root, value in ratios.items()}
        self.widths = {group.root: group.width for group in groups} | self.widths

        def select(ratio: float) -> tuple[list[Cut], dict[str, str]]:
            return select_channels(step, groups, ratio, own=own, whole=self.widths)

        # For a budget, cuts of about the same size show first which groups break.
        good, broken = self._verified(*select(ratio), reasons)
        while step.of != "channels":
            groups = [group for group in groups if group.root not in broken]
            least = budget.ratio(self.work.module, ratio, lambda ratio: select(ratio)[0])
            good, broken = self._verified(*select(least), reasons)
            if not broken:
                break
        return good

    def _verified(self, cuts: list[Cut], whole: dict[str, str], reasons: dict[str, str]) -> tuple[list[Cut], set[str]]:
        """Return the cuts that pass verification, and the roots of the groups that fail."""
        self.reasons = reasons | whole
        self.work.progress(Progress("prune", 0, 1, f"trying {len(cuts)} groups"))
        good, broken = verify_cuts(self.work.module, cuts, self.work.task.examples(2))
        self.broken.update({name: why for cut, why in broken for name in cut.members})
        return good, {cut.root for cut, _ in broken}


@register_handler(Prune)
def prune(step: Prune, work: Work) -> Outcome:
    """Remove channels of the variant's module, group by group; see :class:`Prune`."""
    module, example = work.module, work.task.examples(2)
    kinds, epochs = (*PRUNABLE, nn.Embedding), 0.0
    shapes = {name: tuple(layer.weight.shape) for name, layer in module.named_modules() if isinstance(layer, kinds)}
    budget, state = CostBudget(step, work), _State(step, work)
    before = copy_module(module) if step.rewind else None
    if step.sparse_epochs:
        epochs += train_sparse(step, work, state.groups()[0])
    for number in range(1, step.rounds + 1):
        cuts = state.cuts(budget, scheduled_share(step.schedule, number / step.rounds))
        apply_cuts(module, cuts, example)
        if before is not None:
            apply_cuts(before, cuts, example)
            module.load_state_dict(before.state_dict())
        module.eval()
        if step.recover_epochs and number < step.rounds:
            between = replace(work, seed=work.seed + number)
            epochs += recover(Recover(epochs=step.recover_epochs), between).epochs_done
    layers = _report(module, shapes, state.reasons | state.broken)
    notes = (*_notes(step, state, module), *_missed(step, module, shapes, state.reasons), *budget.notes())
    return Outcome(module, layers, epochs, notes)


def _report(module: nn.Module, before: dict[str, tuple[int, ...]], reasons: dict[str, str]) -> tuple[LayerReport, ...]:
    reports = []
    for name, layer in module.named_modules():
        if name not in before:
            if holds_matrix(layer):
                reports.append(LayerReport(display_name(name), type(layer).__name__, False, _why_not_handled(layer)))
            continue
        old, new = before[name], tuple(layer.weight.shape)
        changed = [side for side in _sides(layer, old, new) if side[1] != side[2]]
        changes = [f"{word} {a} -> {b}" for word, a, b in changed]
        cut = any(word == "outputs" for word, *_ in changed)
        own = f"; {'then no more' if cut else 'outputs kept'}: {reasons[name]}" if name in reasons else ""
        why = _why_not_handled(layer) if isinstance(layer, nn.Embedding) else _NOT_TRACED
        reason = ", ".join(changes) + own if changes else reasons.get(name, why)
        reports.append(LayerReport(display_name(name), type(layer).__name__, bool(changes), reason))
    return tuple(reports)


def _missed(
    step: Prune, module: nn.Module, before: dict[str, tuple[int, ...]], reasons: dict[str, str]
) -> tuple[str, ...]:
    """Return a note if the fraction of pruned channels is far from the ratio."""
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
        f"{1 - new / old:.0%} of the channels were pruned instead of {step.ratio:.0%}: some layers cannot be cut, and "
        f"widths are multiples of round_to={step.round_to} or of a layer's own step. See the layers' reports.",
    )


def _why_not_handled(layer: nn.Module) -> str:
    if isinstance(layer, nn.RNNBase):
        return _RECURRENT
    if isinstance(layer, nn.Embedding):
        return "embedding: its width is that of its readers, which stay whole"
    if isinstance(layer, nn.MultiheadAttention):
        return "query, key and value share one projection weight, which Prune does not cut"
    return f"Prune does not cut a {type(layer).__name__}"


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
            f"{len(tied)} layers were kept ({', '.join(tied)}), because cutting them would break a tied weight; "
            f"{count_params(module):,} parameters are left."
        )
    ties = find_ties(module)
    if ties:
        notes.append(f"Tied weights are still one tensor: {'; '.join(map(describe_tie, ties))}.")
    if len(state.broken) > len(tied):
        notes.append(
            f"{len(state.broken) - len(tied)} layers were kept, because the model fails or computes something else "
            "without their channels (fixed sizes in its forward)."
        )
    if step.rewind:
        notes.append(
            "Weight rewinding: the surviving weights have their values from before this step. Train afterwards with "
            "Distill or Recover."
        )
    return tuple(notes)
