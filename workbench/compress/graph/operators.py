"""Operators of captured graphs that multiply by a weight."""

import torch

_aten = torch.ops.aten
CONVOLUTIONS = frozenset(
    {_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default}
    | {_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding}
)
LINEAR = _aten.linear.default
WEIGHTED = CONVOLUTIONS | {LINEAR}
