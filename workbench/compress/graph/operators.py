"""Operators of captured graphs."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch


def aten(*names: str) -> frozenset[Any]:
    """Return ATen operators by name, like ``"view.default"``."""
    return frozenset(attrgetter(name)(torch.ops.aten) for name in names)


CONVOLUTIONS = aten(*(f"conv{n}d.{overload}" for n in (1, 2, 3) for overload in ("default", "padding")))
LINEAR = torch.ops.aten.linear.default
WEIGHTED = CONVOLUTIONS | {LINEAR}
"""Operators that multiply by a weight."""
