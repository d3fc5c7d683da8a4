"""Attention heads: which channels make one up, and which attributes of the model count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

_WIDTH_OF_ONE = ("head_dim", "head_width", "attention_head_size", "dim_head", "d_head")
_NUMBER = ("num_heads", "heads", "n_heads", "n_head", "nhead", "num_attention_heads")
_WIDTH_OF_ALL = ("all_head_size", "inner_dim", "embed_dim", "split_size")


@dataclass(frozen=True)
class Heads:
    """The channels of each head in the layer that makes queries, keys or values.

    ``counters`` are attributes that remember the number of heads or their joint width, each with its share of one
    head: ``("encoder.0.attention", "all_head_size", 64)``.
    """

    units: tuple[tuple[int, ...], ...]
    counters: tuple[tuple[str, str, int], ...]


def find_heads(module: nn.Module, root: str, width: int, taken: Sequence[int]) -> Heads | None:
    """Return the heads of ``root`` if it makes queries, keys or values, else None.

    The module around it says how many heads there are or how wide one is; one Linear may make queries, keys and
    values side by side, which ``taken``, the inputs of the layers that read them, tells apart. Whether the model's
    forward goes on with fewer heads is found out by the trial.
    """
    if not isinstance(module.get_submodule(root), nn.Linear):
        return None
    path = root.rpartition(".")[0]
    around = module.get_submodule(path)
    inner = min(taken, default=width)
    # The width of a head stays when heads go; the number of heads that a module remembers may be that of before.
    size = _first(around, _WIDTH_OF_ONE) or inner // (_first(around, _NUMBER) or inner)
    if size < 2 or inner % size or width % inner:
        return None
    number = inner // size
    units = tuple(
        tuple(part + head * size + place for part in range(0, width, inner) for place in range(size))
        for head in range(number)
    )
    counters = [(path, name, 1) for name in _NUMBER if getattr(around, name, None) == number]
    counters += [(path, name, size) for name in _WIDTH_OF_ALL if getattr(around, name, None) == inner]
    return Heads(units, tuple(counters))


def _first(module: nn.Module, names: Sequence[str]) -> int | None:
    found = (getattr(module, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
