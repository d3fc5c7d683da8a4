"""Memory layout and number formats of training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from workbench.core.machine import this_machine
from workbench.tasks.trees import Tree, call_model, tree_map


def channels_last(tree: Tree) -> Tree:
    """Return images ``[n, c, h, w]`` with the channels innermost in memory: convolutions run faster so."""
    return tree_map(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, tree)


def set_memory_format(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Put the 4-d weights of ``module`` into a memory layout, in place."""
    return module.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def has_native_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16."""
    return bool({"avx512_bf16", "amx_bf16"} & set(this_machine().isa))


def autocast_matmul(precision: str = "auto") -> AbstractContextManager[Any]:
    """Return a context in which matrix products use bfloat16; weights, gradients and losses stay float32.

    ``"auto"`` does so where the CPU has instructions for it (where it is emulated it is slower), ``"bfloat16"``
    always, ``"float32"`` never.
    """
    enabled = has_native_bfloat16() if precision == "auto" else precision == "bfloat16"
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


class Forward:
    """Runs a module with :func:`autocast_matmul`, its floating outputs as float32.

    With ``"auto"`` it goes over to float32 for good where a layer of the module has no bfloat16 kernel.
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
        return tree_map(to_float32, call_model(module, batch))  # what fails now too is no matter of the format


def to_float32(x: torch.Tensor) -> torch.Tensor:
    """Return floating values as float32, others as they are."""
    return x.float() if x.is_floating_point() else x
