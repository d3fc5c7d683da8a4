"""The steps of a recipe: frozen options, without torch, for forms and databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.compress.depth.config import PruneDepth as PruneDepth
from workbench.compress.distill.config import Distill as Distill, Recover as Recover
from workbench.compress.factorize.config import Factorize as Factorize
from workbench.compress.prune.config import Prune as Prune
from workbench.compress.quantize.config import Quantize as Quantize
from workbench.compress.sparsify.config import Sparsify as Sparsify
from workbench.compress.step import Step as Step
from workbench.core.config import from_dict
from workbench.core.errors import RecipeError, unknown_name

STEP_TYPES: dict[str, type[Step]] = {
    cls.__name__: cls for cls in (Prune, PruneDepth, Distill, Recover, Factorize, Sparsify, Quantize)
}


def step_to_dict(step: Step) -> dict[str, Any]:
    """Return ``{"step": "Prune", ...all options...}``, ready for JSON."""
    return {"step": type(step).__name__, **step.to_dict()}


def step_from_dict(values: Mapping[str, Any]) -> Step:
    """Build a step from the output of :func:`step_to_dict`; missing options take their defaults."""
    rest = dict(values)
    name = rest.pop("step", None)
    if name is None:
        raise RecipeError(f"A step needs its name under 'step', got {dict(values)!r}. Known: {', '.join(STEP_TYPES)}.")
    if name not in STEP_TYPES:
        raise RecipeError(unknown_name("step", name, STEP_TYPES))
    return from_dict(STEP_TYPES[name], rest)
