"""Equalize channel ranges before quantization; exact in float.

Cross-layer equalization: Nagel et al. 2019 (arXiv 1906.04721), section 4.1. SmoothQuant: Xiao et al. 2022
(arXiv 2211.10438). Both change the weights of a captured graph with folded batch norms, in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.capture import CONVOLUTIONS, LINEAR, aten, readers, replace_stored, run_graph, stored
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.tasks.trees import Tree

_aten = torch.ops.aten
_HOMOGENEOUS = aten(
    *("relu.default", "relu_.default", "leaky_relu.default", "dropout.default"),
    *(f"{pool}{n}d.default" for pool in ("max_pool", "avg_pool", "adaptive_avg_pool") for n in (1, 2)),
)
"""Operators with f(s x) = s f(x) per channel for s > 0."""
_RESHAPES = aten("flatten.using_ints", "view.default", "reshape.default", "squeeze.dims")
_NORMS: dict[Any, tuple[int, ...]] = {_aten.layer_norm.default: (2, 3), _aten.rms_norm.default: (2,)}
"""Argument positions of the norms' scale and shift per channel."""
_ROUNDS, _SETTLED = 20, 1e-3


def equalize_pairs(graph: GraphModule) -> dict[str, str]:
    """Scale the channels between pairs of layers so that both weights have equal ranges; outputs do not change.

    A pair is a convolution or Linear, optional scale-equivariant operators (ReLU, pooling), and another convolution or
    Linear that is the only reader.
    Returns a remark per layer.
    """
    owners = {node: owner for node, owner in weighted_nodes(graph) if owner is not None}
    pairs, remarks = [], {}
    for node, owner in owners.items():
        follower = _follower(node)
        if isinstance(follower, str):
            remarks[owner] = f"outputs not equalized: {follower}"
        elif follower not in owners or max(readers(graph, n.args[1]) for n in (node, follower)) > 1:  # type: ignore[arg-type]
            remarks[owner] = "outputs not equalized: its weight or the next layer's is shared or computed"
        else:
            pairs.append((node, follower))
            remarks[owner] = f"outputs equalized with {owners[follower]}"
    for _ in range(_ROUNDS):
        if not pairs or max(_balance(graph, first, second) for first, second in pairs) < _SETTLED:
            break
    return remarks


def _follower(node: Node) -> Node | str:
    """Return the layer that alone reads the output of ``node``, or the reason why there is none."""
    current = node
    while True:
        users = list(current.users)
        if len(users) != 1:
            return "several operators read its output"
        before, current = current, users[0]
        if current.op == "output":
            return "its output is the model's output"
        if current.target in CONVOLUTIONS or current.target is LINEAR:
            return current
        if current.target not in _HOMOGENEOUS and not _leaves_channels(before, current):
            return f"{str(current.target).removeprefix('aten.')} follows, which is not scale-equivariant"


def _leaves_channels(before: Node, node: Node) -> bool:
    """Return whether a node turns ``[n, c, ...]`` into ``[n, c]``: by a global mean, or a reshape of size-1 dims."""
    shape = before.meta["val"].shape
    if node.target is _aten.mean.dim and len(shape) > 2:
        axes = sorted(int(axis) % len(shape) for axis in node.args[1])  # type: ignore[union-attr, arg-type]
        return axes == list(range(2, len(shape)))
    one_place = len(shape) > 2 and all(size == 1 for size in shape[2:])
    return node.target in _RESHAPES and one_place and tuple(node.meta["val"].shape[1:]) == tuple(shape[1:2])


def _balance(graph: GraphModule, first: Node, second: Node) -> float:
    """Equalize one pair; return the largest distance of a scale from 1."""
    before, after = stored(graph, first.args[1]), stored(graph, second.args[1])
    if before is None or after is None:
        raise TypeError(f"{first} and {second} must have stored weights")
    groups: int = 1 if second.target is LINEAR or len(second.args) < 7 else second.args[6]  # type: ignore[assignment]
    ranges, next_ranges = before.abs().flatten(1).amax(1), _by_input(after, groups).abs().amax(1)
    scale = torch.sqrt(ranges / next_ranges).detach()
    scale = torch.where((ranges > 0) & (next_ranges > 0), scale, torch.ones_like(scale))
    replace_stored(graph, first.args[1], before / scale.reshape(-1, *[1] * (before.ndim - 1)))  # type: ignore[arg-type]
    bias = first.args[2] if len(first.args) > 2 else None
    value = stored(graph, bias) if isinstance(bias, Node) else None
    if value is not None:
        replace_stored(graph, bias, value / scale)  # type: ignore[arg-type]
    shape = (groups, 1, -1, *[1] * (after.ndim - 2))
    grouped = after.reshape(groups, after.shape[0] // groups, *after.shape[1:])
    replace_stored(graph, second.args[1], (grouped * scale.reshape(shape)).reshape(after.shape))  # type: ignore[arg-type]
    return float((scale - 1).abs().max())


def _by_input(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a weight ``[out, in / groups, ...]`` as one row per input channel."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.permute(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)


def smooth(graph: GraphModule, inputs: Tree, *, alpha: float) -> dict[str, str]:
    """Move channel ranges of LayerNorm and RMSNorm outputs into the Linears after them; outputs do not change.

    Channel j of the norm is divided by ``max|x_j|**alpha / max|w_j|**(1 - alpha)``, and its weights multiplied by it.
    ``inputs`` are calibration samples [n, ...]. Returns a remark per layer.
    """
    owners = {node: owner for node, owner in weighted_nodes(graph) if owner is not None}
    norms = {node: list(node.users) for node in graph.graph.nodes if node.target in _NORMS}
    remarks = dict.fromkeys(owners.values(), "not smoothed: its input is not a LayerNorm or RMSNorm")
    ranges: dict[Node, torch.Tensor] = {}

    def record(node: Node, _: tuple[Any, ...], value: Any) -> Any:
        if node in norms:
            ranges[node] = value.abs().flatten(0, -2).amax(0)
        return value

    run_graph(graph, inputs, record)
    for norm, users in norms.items():
        reason = _reason_against(graph, norm, users, owners)
        if reason is None:
            _shift_range(graph, norm, users, ranges[norm], alpha)
        for user in users:
            if user in owners:
                remarks[owners[user]] = f"not smoothed: {reason}" if reason else "smoothed with the norm before it"
    return remarks


def _reason_against(graph: GraphModule, norm: Node, users: Sequence[Node], owners: dict[Node, str]) -> str | None:
    if any(user.target is not LINEAR or user not in owners or user.args[0] is not norm for user in users):
        return "other operators than Linear read the norm"
    weights = [user.args[1] for user in users]
    affine = list(_affine(norm))
    if not affine:
        return "the norm has no scale"
    if any(stored(graph, node) is None or readers(graph, node) > 1 for node in (*weights, *affine)):  # type: ignore[arg-type]
        return "a weight of the norm or of a Linear is shared"
    if len(norm.args[1]) != 1:  # type: ignore[arg-type]
        return "the norm covers more than the last dimension"
    return None


def _affine(norm: Node) -> Iterator[Node]:
    """Yield the nodes of the norm's scale and of its shift if it has one."""
    for place in _NORMS[norm.target]:
        if len(norm.args) > place and isinstance(norm.args[place], Node):
            yield norm.args[place]  # type: ignore[misc]
        elif place == _NORMS[norm.target][0]:
            return


def _shift_range(graph: GraphModule, norm: Node, users: Sequence[Node], ranges: torch.Tensor, alpha: float) -> None:
    weights = [stored(graph, user.args[1]) for user in users]
    weight_ranges = torch.stack([weight.abs().amax(0) for weight in weights if weight is not None]).amax(0)
    scale = (ranges.pow(alpha) / weight_ranges.pow(1 - alpha)).detach()
    scale = torch.where((ranges > 0) & (weight_ranges > 0), scale, torch.ones_like(scale))
    for node in _affine(norm):
        value = stored(graph, node)
        if value is not None:
            replace_stored(graph, node, value / scale)
    for user, weight in zip(users, weights, strict=True):
        if weight is not None:
            replace_stored(graph, user.args[1], weight * scale)  # type: ignore[arg-type]
