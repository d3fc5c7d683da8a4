"""Detect models whose output for a sample depends on the rest of its batch, as after a mean over the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.tasks.trees import Tree, batch_size, call_model, named_leaves, slice_batch, tree_map

_RELATIVE, _OF_LARGEST = 1e-2, 1e-3
"""Tolerances: relative to the value, and to the largest value. Runtimes sum in different orders."""


def batch_dependent_output(model: nn.Module, inputs: Tree) -> str | None:
    """Return the name of the first output in which a sample depends on the rest of its batch, or None.

    Every sample is run alone and compared with its row of the batch, because it may depend on the first row only.

    Examples
    --------
    >>> batch_dependent_output(nn.Linear(3, 2), torch.randn(4, 3)) is None
    True
    """
    size = batch_size(inputs)
    with torch.no_grad():
        together = dict(named_leaves(_call(model, inputs), "output"))
        for place in range(size):
            alone = dict(named_leaves(_call(model, slice_batch(inputs, place, place + 1)), "output"))
            for name, batch in together.items():
                has_batch = isinstance(batch, torch.Tensor) and batch.shape[:1] == (size,)
                if has_batch and not outputs_equal(batch[place : place + 1], alone.get(name)):
                    return name
    return None


def _call(model: nn.Module, inputs: Tree) -> Tree:
    return call_model(model, tree_map(torch.clone, inputs))  # it may write into them


def outputs_equal(one: torch.Tensor, other: Any) -> bool:
    """Return True if two outputs are equal up to the order of summation."""
    if not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    largest = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=_RELATIVE, atol=_OF_LARGEST * largest, equal_nan=True)
