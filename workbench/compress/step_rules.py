"""Check the order of a recipe's steps by the rules that the steps carry."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.compress.steps import STEP_TYPES, Step
from workbench.core.errors import RecipeError


def check_order(steps: Sequence[Step]) -> None:
    """Raise :class:`RecipeError` with the reason if the steps cannot work in this order.

    Examples
    --------
    >>> from workbench.compress.steps import Prune, Quantize
    >>> check_order([Prune(), Quantize()])
    """
    for index, step in enumerate(steps):
        if type(step) not in STEP_TYPES.values():
            raise RecipeError(
                f"Step {index + 1} is {step!r} ({type(step).__name__}), not a step. Allowed: {', '.join(STEP_TYPES)}."
            )
        before = [type(s).__name__ for s in steps[:index]]
        reason = _broken_rule(type(step), before) or step.placement_error(before)
        if reason:
            order = " -> ".join(type(s).__name__ for s in steps)
            raise RecipeError(f"{order}: step {index + 1} ({type(step).__name__}) cannot stand here. {reason}")


def _broken_rule(step: type[Step], before: Sequence[str]) -> str | None:
    """Return why a step cannot come after the named ones, by the rule of the earliest; None if it can."""
    for name in before:
        if name in step.not_after:
            return step.not_after[name]
    if before and before[-1] in step.not_right_after:
        return step.not_right_after[before[-1]]
    if step.needs and not set(step.needs) & set(before):
        return step.needs_why
    return None
