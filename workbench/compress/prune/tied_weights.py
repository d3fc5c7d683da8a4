"""Tied weights, which must stay one tensor after a cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from workbench.compress.layer_selection import display_name

Tie = tuple[tuple[str, str], ...]
"""Layers that share a parameter, with its name in each: ``(("embed", "weight"), ("head", "weight"))``."""


def find_ties(module: nn.Module) -> tuple[Tie, ...]:
    """Return the parameters that several layers hold."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, layer in module.named_modules():
        for own, parameter in layer.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((name, own))
    return tuple(tuple(places) for places in owners.values() if len(places) > 1)


def find_broken_tie(module: nn.Module, ties: Sequence[Tie]) -> Tie | None:
    """Return a tie whose parameters were cut differently, or None."""
    return next((tie for tie in ties if not _is_one(module, tie)), None)


def restore_ties(module: nn.Module, ties: Sequence[Tie]) -> None:
    """Make the parameters of every tie one tensor again if they are equal: layer-by-layer cuts separate them."""
    for tie in ties:
        if _is_one(module, tie):
            first = _parameter(module, *tie[0])
            for name, own in tie[1:]:
                setattr(module.get_submodule(name), own, first)


def describe_tie(tie: Tie) -> str:
    """Return the names of the layers of a tie: ``"embed and head"``."""
    return " and ".join(display_name(name) for name, _ in tie)


def _is_one(module: nn.Module, tie: Tie) -> bool:
    first, *others = (_parameter(module, *place) for place in tie)
    return all(other is first or torch.equal(other, first) for other in others)


def _parameter(module: nn.Module, name: str, own: str) -> nn.Parameter:
    return module.get_submodule(name).get_parameter(own)
