"""Outputs of layers: those that make the model's outputs, the last feature map; and the error of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.compress.model_ops import predict_with, removing
from workbench.tasks.trees import Tree, leaves

INPUT = ":input"
"""Suffix of the name of a layer for its input instead of its output."""
_HEADS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)


def output_layers(module: nn.Module, example: Tree, kinds: tuple[type[nn.Module], ...]) -> frozenset[str]:
    """Return the names of the layers of ``kinds`` whose output is, or is viewed as, an output of the model."""
    made: dict[str, list[torch.Tensor]] = {}  # kept alive, so that no memory is reused

    def recorder(name: str) -> Any:
        def record(_: nn.Module, inputs: Any, output: Tree) -> None:
            places = {storage_of(tensor) for tensor in leaves(inputs) if torch.is_tensor(tensor)}
            made.setdefault(name, []).extend(tensor for tensor in leaves(output) if storage_of(tensor) not in places)

        return record

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds)]
    with removing(layer.register_forward_hook(recorder(name)) for name, layer in layers):
        outputs = {storage_of(output) for output in leaves(predict_with(module, example))}
    return frozenset(name for name, tensors in made.items() if any(storage_of(tensor) in outputs for tensor in tensors))


def storage_of(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's storage, which views share."""
    return tensor.untyped_storage().data_ptr()


def relative_squared_error(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """Return the energy of the error over that of the expected outputs, averaged over the floating ones.

    Each output is normalized by itself, so that a large output does not hide the error of a small one.
    """
    pairs = [(a.double(), b.double()) for a, b in zip(expected, outputs, strict=True) if a.is_floating_point()]
    shares = [float((a - b).square().sum()) / max(float(a.square().sum()), 1e-300) for a, b in pairs]
    return sum(shares) / max(1, len(shares))


@dataclass(frozen=True)
class FeatureMap:
    """A tensor that a layer reads (``"head:input"``) or returns (``"layer3"``), with its shape."""

    tap: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """Shapes of the floating inputs and outputs of all layers in one call, in order, and the last feature map.

    That is the last tensor of three or more dimensions before the head (the last layer with a weight matrix) or read
    by it, after a layer with weights, with more than one position, and not an output of the module: the tensor before
    a final pooling. Without such a tensor it is the head's input.
    """

    shapes: dict[str, tuple[int, ...]]
    last: FeatureMap | None


def trace_maps(module: nn.Module, example: Tree) -> Trace:
    """Run ``module`` once on a batch, in its current mode, and return the shapes in its layers."""
    recorder = _Recorder()
    handles = [handle for name, layer in module.named_modules() if name for handle in recorder.hooks(name, layer)]
    with removing(handles):
        outputs = predict_with(module, example)
    shapes = {tap: tuple(x.shape) for tap, x in recorder.events}
    returned = {x.data_ptr() for x in leaves(outputs) if isinstance(x, torch.Tensor)}
    samples = len(leaves(example)[0])
    inner = [e for e in recorder.inner() if e[1].ndim > 1 and len(e[1]) == samples and e[1].data_ptr() not in returned]
    last = next(((tap, x) for tap, x in reversed(inner) if _covers_positions(x)), None)
    if last is None and recorder.head:  # a model without maps, such as a perceptron
        last = next(((tap, x) for tap, x in reversed(inner) if tap == recorder.head + INPUT), None)
    return Trace(shapes, FeatureMap(last[0], tuple(last[1].shape)) if last else None)


class _Recorder:
    """Tensors of the layers in order; the last layer with a weight matrix is the head."""

    def __init__(self) -> None:
        self.events: list[tuple[str, torch.Tensor]] = []
        self.head, self._head_at = "", 0
        self._first_at: int | None = None

    def hooks(self, name: str, layer: nn.Module) -> tuple[Any, Any]:
        """Register the hooks of one layer."""
        weighted = next(layer.parameters(recurse=False), None) is not None

        def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._record(name + INPUT, [*leaves(inputs), *leaves(named)])
            if weighted:
                self.head = name if isinstance(layer, _HEADS) else ""
                self._head_at = len(self.events)

        def after(_: nn.Module, inputs: Any, outputs: Any) -> None:
            if weighted and self._first_at is None:
                self._first_at = len(self.events)
            self._record(name, leaves(outputs))

        return layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)

    def inner(self) -> list[tuple[str, torch.Tensor]]:
        """Return the tensors from the first layer with weights to the head's input, or to the end without a head."""
        first = len(self.events) if self._first_at is None else self._first_at
        return self.events[first : self._head_at if self.head else None]

    def _record(self, tap: str, tensors: list[Any]) -> None:
        x = first_floating(tensors)
        if x is not None:
            self.events.append((tap, x))


def first_floating(tensors: list[Any]) -> torch.Tensor | None:
    """Return the first floating-point tensor of a list, None if there is none."""
    return next((x for x in tensors if isinstance(x, torch.Tensor) and x.is_floating_point()), None)


def _covers_positions(x: torch.Tensor) -> bool:
    if x.ndim < 3 or (x.shape[1] == 1 and x.ndim == 3):
        return False
    return math.prod(x.shape[2:]) > 1
