"""Handler of PruneDepth: find the removable blocks, remove those of least loss per saving, and report."""

from __future__ import annotations

import math

from workbench.compress.depth.blocks import ResidualBlocks, find_blocks
from workbench.compress.depth.rank import BlockRemover, OutputLoss, Savings, savings
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import display_name, excluded_names, skip_reasons
from workbench.compress.steps import PruneDepth
from workbench.compress.variant import LayerReport
from workbench.core.errors import ConfigError, CoverageError
from workbench.core.progress import Progress


@register_handler(PruneDepth)
def prune_depth(step: PruneDepth, work: Work) -> Outcome:
    """Remove residual blocks of the variant's module; see :class:`PruneDepth`."""
    module = work.module
    work.progress(Progress(step.label, message="searching residual blocks"))
    blocked = skip_reasons(module, step.include, step.exclude, where="PruneDepth")
    excluded = excluded_names(module, step.exclude, where="PruneDepth")
    findings = find_blocks(module, work.task.examples(2), blocked, excluded)
    types = {name: type(layer).__name__ for name, layer in module.named_modules()}
    if not findings.blocks:
        if not step.allow_untouched:
            raise CoverageError(_no_block(step, findings))
        return Outcome(module, _report(findings, types, {}))
    count = _count(step, findings)
    saving = savings(step, work, findings.blocks)
    loss = OutputLoss(module, work, step.samples)
    remover = BlockRemover(step, work, findings.blocks, loss, saving)
    remover.remove(count)
    layers = _report(findings, types, _reasons(remover, saving))
    return Outcome(module, layers, notes=_notes(step, findings, remover, count))


def _no_block(step: PruneDepth, findings: ResidualBlocks) -> str:
    listed = "; ".join(f"{name}: {reason}" for name, reason in list(findings.refused.items())[:2])
    rest = f"; and {len(findings.refused) - 2} more" if len(findings.refused) > 2 else ""
    return (
        "PruneDepth needs a residual block, a module whose input is added to its result; this model has no "
        f"removable one ({listed}{rest}). Use Prune to remove channels, leave '{step.label}' out, or pass "
        "allow_untouched=True."
    )


def _count(step: PruneDepth, findings: ResidualBlocks) -> int:
    """Return the number of blocks to remove."""
    removable = len(findings.blocks)
    if step.blocks is None:
        return max(1, math.floor(step.ratio * removable + 0.5))
    if step.blocks > removable:
        names = ", ".join(block.name for block in findings.blocks)
        raise ConfigError(
            f"PruneDepth.blocks must be at most {removable}, the number of removable blocks of this model ({names}), "
            f"got {step.blocks}."
        )
    return step.blocks


def _reasons(remover: BlockRemover, saving: Savings) -> dict[str, tuple[bool, str]]:
    """Return for every removable block whether it was removed, with the reason."""
    reasons: dict[str, tuple[bool, str]] = {}

    def trade(name: str, added: float) -> str:
        return f"{remover.loss.words} +{added:.3g}, {saving.by_block[name]:.1%} of the {saving.unit}"

    for number, removal in enumerate(remover.removals, start=1):
        name = removal.block.name
        reasons[name] = True, f"removed as number {number}: {trade(name, removal.added)}"
    for name, added in remover.added.items():
        reasons[name] = False, f"kept: more loss per saving ({trade(name, added)})"
    return reasons | {name: (False, reason) for name, reason in remover.broken.items()}


def _report(
    findings: ResidualBlocks, types: dict[str, str], reasons: dict[str, tuple[bool, str]]
) -> tuple[LayerReport, ...]:
    by_name = reasons | {name: (False, reason) for name, reason in findings.refused.items()}
    return tuple(
        LayerReport(display_name(name), kind, *by_name[name]) for name, kind in types.items() if name in by_name
    )


def _notes(step: PruneDepth, findings: ResidualBlocks, remover: BlockRemover, count: int) -> tuple[str, ...]:
    removed = [removal.block.name for removal in remover.removals]
    notes = [
        f"Removed {len(removed)} of {len(findings.blocks)} removable blocks, in this order: {', '.join(removed)}.",
        *remover.saving.notes,
    ]
    if remover.removals:
        notes.append(
            f"Loss of the outputs: {remover.loss.words} {remover.removals[-1].total:.3g} on {remover.loss.samples} "
            f"calibration samples, {remover.scored} removals tried."
        )
    if len(removed) < count:
        notes.append(f"{count - len(removed)} blocks fewer than requested: the model fails without more of them.")
    return tuple(notes)
