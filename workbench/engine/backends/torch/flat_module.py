"""A module with flat tensors in and out, for compilers, and checks of what they made of it. Imports torch."""

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
    """Takes the inputs in the order of the io description and gives the outputs as a flat tuple."""

    def __init__(self, module: nn.Module, io: IOSpec) -> None:
        super().__init__()
        self.module = module
        self._flat = flat_call(module, io)
        # A captured graph has no eval(), and is one that evaluates all the same.
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
    """Return in words where ``made`` gives other outputs than ``eager``, None where both agree on every batch.

    Float inputs are tried with the other sign too, for code that branches on values. A batch that the eager module
    does not run is left out: there is nothing to agree with.
    """
    for given in batches:
        turned = [tensor.neg() if tensor.is_floating_point() else tensor for tensor in given]
        for tensors, words in ((given, ""), (turned, ", inputs of the other sign")):
            problem = _differs(eager, made, tensors, quantized=quantized, tolerance=tolerance)
            if problem is not None:
                return f"at batch {len(given[0])}{words}: {problem}"
    return None


def _differs(
    eager: Callable[..., Any],
    made: Callable[..., Any],
    tensors: Sequence[Tensor],
    *,
    quantized: bool,
    tolerance: float | None,
) -> str | None:
    with torch.inference_mode():
        try:
            wanted = [leaf.cpu().numpy() for leaf in eager(*tensors)]
        except Exception:  # noqa: BLE001 - the user's module may refuse a batch size
            return None
        try:
            got = [leaf.cpu().numpy() for leaf in made(*tensors)]
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises, it does not run what eager runs
            return first_line(error)
    return compare_outputs(wanted, got, quantized=quantized, tolerance=tolerance).problem


def require_examples(examples: list[Any] | None, label: str, backend: str) -> list[Any]:
    """Return the example inputs, or raise EngineError where a source has none."""
    if examples is None:
        raise EngineError(
            f"Backend {backend!r} follows the module on example inputs, and {label} has none. "
            "Use the backend torch-eager, or save the variant again with variant.save(folder)."
        )
    return examples
