"""Memory layout and number format of training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from workbench.core.machine import this_machine
from workbench.tasks.trees import Tree, call_model, tree_map


def channels_last(tree: Tree) -> Tree:
    """Return images ``[n, c, h, w]`` in the channels-last format, in which convolutions are faster."""
    return tree_map(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, tree)


def set_memory_format(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Set the memory format of the 4-d weights of ``module`` in place."""
    return module.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def has_native_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 instructions."""
    return bool({"avx512_bf16", "amx_bf16"} & set(this_machine().isa))


def autocast_matmul(precision: str = "auto") -> AbstractContextManager[Any]:
    """Return a context in which matrix products use bfloat16; weights, gradients and losses stay float32.

    ``"auto"``: if the CPU has bfloat16 instructions; ``"bfloat16"``: always; ``"float32"``: never.
    """
    enabled = has_native_bfloat16() if precision == "auto" else precision == "bfloat16"
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


class Forward:
    """Run a module with :func:`autocast_matmul` and return its floating outputs as float32.

    ``"auto"`` changes to float32 for good if a layer of the module has no bfloat16 kernel.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    @property
    def actual(self) -> str:
        """The number format in use."""
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if has_native_bfloat16() else "float32"

    def __call__(self, module: nn.Module, batch: Tree) -> Tree:
        """Return the outputs for a batch."""
        try:
            with autocast_matmul(self.precision):
                return tree_map(to_float32, call_model(module, batch))
        except RuntimeError:
            if self.precision != "auto":
                raise
            self.precision = "float32"
        return tree_map(to_float32, call_model(module, batch))  # an error here is not due to the format


def to_float32(x: torch.Tensor) -> torch.Tensor:
    """Return floating values as float32, others unchanged."""
    return x.float() if x.is_floating_point() else x
