"""Compression: steps, recipes, and what comes out of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.compress.recipe import Recipe
from workbench.compress.step_rules import check_order
from workbench.compress.steps import (
    STEP_TYPES,
    Distill,
    Factorize,
    Prune,
    PruneDepth,
    Quantize,
    Recover,
    Sparsify,
    Step,
)
from workbench.core.lazy import attribute

if TYPE_CHECKING:
    from workbench.compress.variant import LayerReport, StepReport, Variant

__all__ = [
    "STEP_TYPES",
    "Distill",
    "Factorize",
    "LayerReport",
    "Prune",
    "PruneDepth",
    "Quantize",
    "Recipe",
    "Recover",
    "Sparsify",
    "Step",
    "StepReport",
    "Variant",
    "check_order",
]


def __getattr__(name: str) -> Any:
    if name in ("LayerReport", "StepReport", "Variant"):
        return attribute("workbench.compress.variant", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
