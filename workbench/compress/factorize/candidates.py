"""The layers that can be split, as a decomposition sees them; and why the others cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.compress.layer_selection import excluded_names, holds_matrix
from workbench.compress.steps import Factorize
from workbench.tasks.trees import Tree, batch_size, call_model

Convolution = nn.Conv1d | nn.Conv2d
_KINDS: dict[str, type[nn.Module]] = {
    "Linear": nn.Linear,
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Embedding": nn.Embedding,
}


@dataclass(frozen=True)
class Spot:
    """A layer that can be split, under all its ``names`` in the model.

    ``inner`` and ``outer`` are the places per sample that it reads and writes (pixels, tokens), ``middle`` those with
    the first axis already as in the output and the second still as in the input.
    """

    names: tuple[str, ...]
    layer: nn.Module
    inner: float
    middle: float
    outer: float

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 for the rest."""
        return self.layer.groups if isinstance(self.layer, Convolution) else 1

    @property
    def weight(self) -> torch.Tensor:
        """The weight as float64 ``[groups, out, in, *kernel]``, both per group; an embedding has its rows as ``in``."""
        raw: Any = self.layer.weight
        weight: torch.Tensor = raw.detach().double()
        if isinstance(self.layer, nn.Embedding) or _is_transposed(self.layer):
            weight = weight.T
        return weight.reshape(self.groups, -1, *weight.shape[1:])

    @property
    def params(self) -> int:
        """Weights, without the bias, which a split keeps."""
        raw: Any = self.layer.weight
        return int(raw.numel())

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample; an embedding is looked up."""
        return 0.0 if isinstance(self.layer, nn.Embedding) else self.params * self.outer

    def methods(self, asked: str) -> tuple[str, ...]:
        """Return the decompositions to look at for ``conv=asked``; what has no kernel to cut has only one."""
        if not isinstance(self.layer, Convolution):
            return ("svd",)
        usable = ["channel", "spatial", "tucker2"]
        if math.prod(self.layer.kernel_size) == 1:
            usable = ["channel"]
        elif len(self.layer.kernel_size) == 1:
            usable = ["channel", "tucker2"]
        if is_depthwise(self.layer):
            usable = [method for method in usable if method == "spatial"]
        if asked == "auto":
            return tuple(usable)
        return (asked,) if asked in usable else tuple(usable[:1])


def find_spots(step: Factorize, module: nn.Module, example: Tree) -> tuple[list[Spot], dict[str, str]]:
    """Return the layers that can be split in the model's order, and for every other candidate the reason."""
    excluded = excluded_names(module, step.exclude, where="Factorize")
    names: dict[nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, tuple(_KINDS.values())) or _is_transposed(layer):
            names.setdefault(layer, []).append(name)
    calls, shared = _calls(names, module, example), _shared_weights(module)
    spots: list[Spot] = []
    reasons: dict[str, str] = {}
    for layer, all_names in names.items():
        why = "excluded by name" if excluded & set(all_names) else refusal(layer, step)
        if why is None and layer not in calls:
            why = "its forward is not called: the model uses its weight directly"
        if why is None and layer.weight in shared:
            why = "its weight is shared with another layer"
        if why is None and not all(all_names):
            why = "it is the whole model"
        if why is None:
            spots.append(_spot(tuple(all_names), layer, calls[layer], batch_size(example)))
        else:
            reasons[all_names[0]] = why
    for name, layer in module.named_modules():
        if layer not in names and holds_matrix(layer):
            reasons[name] = _no_split(layer)
    broken = _unreplaceable(module, spots, example)
    return [spot for spot in spots if spot.name not in broken], reasons | broken


def put(module: nn.Module, names: Sequence[str], new: nn.Module) -> None:
    """Set ``new`` in the place of a layer, under every name it has."""
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, new)


def refusal(layer: nn.Module, step: Factorize) -> str | None:
    """Return why a layer cannot be split whatever its place, or None."""
    kind = next((word for word, cls in _KINDS.items() if isinstance(layer, cls)), "Linear")
    if kind not in step.types:
        return "not among the types asked for"
    # parametrizing a layer changes its type
    if nn.utils.parametrize.is_parametrized(layer):
        return "its weight is computed (parametrized), not stored"
    if type(layer) is not _KINDS[kind] and not _is_transposed(layer):
        return f"a {type(layer).__name__} does more than a plain {kind}"
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return "its rows are normalised as they are looked up (max_norm)"
    if isinstance(layer, Convolution) and is_depthwise(layer) and not _separable(layer, step.conv):
        more = "" if len(layer.kernel_size) == 1 or math.prod(layer.kernel_size) == 1 else "; conv='spatial' can cut it"
        return f"depthwise: nothing to share between channels{more}"
    return None


def _no_split(layer: nn.Module) -> str:
    if isinstance(layer, nn.RNNBase):
        return "recurrent: one operator multiplies by its weights step by step, and takes no factors in their place"
    if isinstance(layer, nn.MultiheadAttention):
        return "query, key and value are projected by one joined weight inside attention"
    return f"a {type(layer).__name__} is none of {', '.join(_KINDS)}"


def is_depthwise(layer: Convolution) -> bool:
    """Return whether every group has one input channel, or one output channel."""
    return layer.groups > 1 and layer.groups in (layer.in_channels, layer.out_channels)


def _separable(layer: Convolution, conv: str) -> bool:
    return conv in ("spatial", "auto") and len(layer.kernel_size) == 2 and min(layer.kernel_size) > 1


def _is_transposed(layer: nn.Module) -> bool:
    """Return whether a layer is the Linear of GPT-2 in transformers, which keeps its weight as ``[in, out]``."""
    kind = type(layer)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _calls(names: dict[nn.Module, list[str]], module: nn.Module, example: Tree) -> dict[nn.Module, list[Any]]:
    """Return the shapes of input and output of every call of the layers' forward."""
    calls: dict[nn.Module, list[Any]] = {}

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        # a subclass may take and give several values; it is refused for that, not measured
        if inputs and torch.is_tensor(inputs[0]) and torch.is_tensor(output):
            calls.setdefault(layer, []).append((tuple(inputs[0].shape), tuple(output.shape)))

    hooks = [layer.register_forward_hook(note) for layer in names]
    try:
        # Fused attention kernels, which call no layer, are off while gradients are on.
        with torch.enable_grad():
            call_model(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _spot(names: tuple[str, ...], layer: nn.Module, calls: list[Any], samples: int) -> Spot:
    inner = middle = outer = 0.0
    for given, made in calls:
        if isinstance(layer, Convolution):
            axes = len(layer.kernel_size)
            # an unbatched image has its channels first
            batch = math.prod(given[: -axes - 1])
            inner += batch * math.prod(given[-axes:])
            middle += batch * math.prod((*made[-axes:-1], given[-1]))
            outer += batch * math.prod(made[-axes:])
        else:
            outer += math.prod(made[:-1])
    if not isinstance(layer, Convolution):
        inner = middle = outer
    return Spot(names, layer, inner / samples, middle / samples, outer / samples)


def _shared_weights(module: nn.Module) -> set[torch.Tensor]:
    seen: set[torch.Tensor] = set()
    shared: set[torch.Tensor] = set()
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            (shared if parameter in seen else seen).add(parameter)
    return shared


def _unreplaceable(module: nn.Module, spots: Sequence[Spot], example: Tree) -> dict[str, str]:
    """Return the layers that the model's forward reaches into, with what happens: found with each in a Sequential."""
    if _error_with(module, spots, example) is None:
        return {}
    found = {}
    for spot in spots:
        error = _error_with(module, [spot], example)
        if error is not None:
            found[spot.name] = f"the model's forward fails with several layers in its place ({error})"
    return found


def _error_with(module: nn.Module, spots: Sequence[Spot], example: Tree) -> str | None:
    for spot in spots:
        put(module, spot.names, nn.Sequential(spot.layer).train(spot.layer.training))
    try:
        with torch.no_grad():
            call_model(module, example)
    except Exception as error:  # noqa: BLE001 - a forward that reaches into the layer may raise anything
        return f"{type(error).__name__}: {error}"
    finally:
        for spot in spots:
            put(module, spot.names, spot.layer)
    return None
