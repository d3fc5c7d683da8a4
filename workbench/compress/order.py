"""Which step may follow which, and why."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.compress.steps import STEP_TYPES, Factorize, Prune, Quantize, Recover, Step
from workbench.core.errors import RecipeError


def check_order(steps: Sequence[Step]) -> None:
    """Raise :class:`RecipeError` with the reason where the steps cannot work in this order.

    Examples
    --------
    >>> check_order([Prune(), Quantize()])
    """
    for index, step in enumerate(steps):
        if type(step) not in STEP_TYPES.values():
            raise RecipeError(
                f"Step {index + 1} is {step!r} ({type(step).__name__}), not a step. Allowed: {', '.join(STEP_TYPES)}."
            )
        reason = _why_not(step, steps[:index])
        if reason:
            order = " -> ".join(type(s).__name__ for s in steps)
            raise RecipeError(f"{order}: step {index + 1} ({type(step).__name__}) cannot stand here. {reason}")


def _why_not(step: Step, before: Sequence[Step]) -> str | None:
    if any(isinstance(s, Quantize) for s in before):
        return (
            "Quantize must be the last step: its integer graph can be neither trained nor cut. To train with rounding "
            "simulated, use Quantize(qat_epochs=...)."
        )
    factorized = any(isinstance(s, Factorize) for s in before)
    if isinstance(step, Prune) and factorized:
        return "Prune must come before Factorize: a rank chosen for full layers does not fit cut ones."
    if isinstance(step, Factorize) and factorized:
        return "Factorize can stand once: its layers are low-rank already. Lower energy or ratio instead."
    if isinstance(step, Prune) and before and isinstance(before[-1], Prune):
        return "Two Prune steps in a row are one: use a larger ratio, or put Distill or Recover between them."
    if isinstance(step, Recover) and not any(isinstance(s, Prune | Factorize) for s in before):
        return "Recover wins back what Prune or Factorize cost; put one of them before it."
    return None
