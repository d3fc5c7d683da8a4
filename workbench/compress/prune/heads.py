"""Find attention heads: their channels, and the attributes of the model that count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

_WIDTH_OF_ONE = ("head_dim", "head_width", "attention_head_size", "dim_head", "d_head")
_NUMBER = ("num_heads", "heads", "n_heads", "n_head", "nhead", "num_attention_heads")
_WIDTH_OF_ALL = ("all_head_size", "inner_dim", "embed_dim", "split_size")


@dataclass(frozen=True)
class Heads:
    """Channels of each head in the projection of queries, keys or values.

    ``counters`` are attributes for the number of heads or their joint width, with the amount per head:
    ``("encoder.0.attention", "all_head_size", 64)``.
    """

    units: tuple[tuple[int, ...], ...]
    counters: tuple[tuple[str, str, int], ...]


def find_heads(module: nn.Module, root: str, width: int, reader_widths: Sequence[int]) -> Heads | None:
    """Return the heads of ``root`` if it projects queries, keys or values, else None.

    The number or width of the heads is an attribute of the module around it. One Linear may project queries, keys and
    values together; ``reader_widths``, the inputs of the layers that read them, separate these.
    """
    if not isinstance(module.get_submodule(root), nn.Linear):
        return None
    path = root.rpartition(".")[0]
    around = module.get_submodule(path)
    inner = min(reader_widths, default=width)
    # The width of a head stays constant; the number of heads may be from before an earlier cut.
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
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
