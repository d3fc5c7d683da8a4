"""A module with flat inputs and outputs for compilers, and checks of compiled modules. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import EngineError, first_line
from workbench.engine.backends.torch.session import flat_call
from workbench.export.agreement import compare_outputs
from workbench.export.io import IOSpec


class FlatModule(nn.Module):
    """Maps inputs in the order of the io description to a flat tuple of outputs."""

    def __init__(self, module: nn.Module, io: IOSpec) -> None:
        super().__init__()
        self.module = module
        self._flat = flat_call(module, io)
        # A captured graph has no eval().
        for part in self.modules():
            part.training = False

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the module."""
        return tuple(self._flat(list(tensors)))


def first_disagreement(
    eager: Callable[..., Any],
    made: Callable[..., Any],
    batches: Sequence[Sequence[Tensor]],
    *,
    quantized: bool,
    tolerance: float | None,
) -> str | None:
    """Return the first difference between ``made`` and ``eager``, None if they agree on every batch.

    Float inputs are also run with the opposite sign, for code that branches on values. A batch that the eager module
    does not run is skipped.
    """
    for given in batches:
        negated = [tensor.neg() if tensor.is_floating_point() else tensor for tensor in given]
        for tensors, which in ((given, ""), (negated, ", inputs of the opposite sign")):
            problem = _difference(eager, made, tensors, quantized=quantized, tolerance=tolerance)
            if problem is not None:
                return f"at batch {len(given[0])}{which}: {problem}"
    return None


def _difference(
    eager: Callable[..., Any],
    made: Callable[..., Any],
    tensors: Sequence[Tensor],
    *,
    quantized: bool,
    tolerance: float | None,
) -> str | None:
    with torch.inference_mode():
        try:
            expected = [leaf.cpu().numpy() for leaf in eager(*tensors)]
        except Exception:  # noqa: BLE001 - the user's module may refuse a batch size
            return None
        try:
            got = [leaf.cpu().numpy() for leaf in made(*tensors)]
        except Exception as error:  # noqa: BLE001 - any error is a difference
            return first_line(error)
    return compare_outputs(expected, got, quantized=quantized, tolerance=tolerance).problem


def require_examples(examples: list[Any] | None, label: str, backend: str) -> list[Any]:
    """Return the example inputs, or raise EngineError if a source has none."""
    if examples is None:
        raise EngineError(
            f"Backend {backend!r} needs example inputs, and {label} has none. "
            "Use the backend torch-eager, or save the variant again with variant.save(folder)."
        )
    return examples
