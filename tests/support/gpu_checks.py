"""The oracle of the GPU's tests: torch eager on the CPU, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.engine.precision import TOLERANCES


def leaves(tree):
    """Return the tensors of a nested output in order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(part)]


def on_cpu(variant, x):
    """Return what the variant's own module gives on the CPU."""
    with torch.no_grad():
        if isinstance(x, dict):
            return variant.module(**x)
        return variant.module(*x) if isinstance(x, tuple) else variant.module(x)


def assert_near(variant, x, found, precision="float32"):
    """Hold outputs against the CPU's, within the tolerance of a precision; an index is compared in float32 only."""
    for got, want in zip(leaves(found), leaves(on_cpu(variant, x)), strict=True):
        assert got.device.type == "cpu" and got.dtype == want.dtype
        if want.is_floating_point():
            assert (got - want).abs().max() <= TOLERANCES[precision] * want.abs().max()
        elif precision == "float32":
            assert torch.equal(got, want)


def cut(x, stop):
    """Return the first samples of inputs of any structure."""
    if isinstance(x, dict):
        return {name: value[:stop] for name, value in x.items()}
    return tuple(value[:stop] for value in x) if isinstance(x, tuple) else x[:stop]
