"""The last feature map of a module: what its head or its final pooling reads, found by running it once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from workbench.tasks.trees import Tree, call_model, leaves

INPUT = ":input"
"""Ends the name of a layer when what goes into the layer is meant, not what comes out."""

_HEADS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class FeatureMap:
    """A tensor that a layer reads (``"head:input"``) or gives (``"layer3"``), with its shape."""

    tap: str
    shape: tuple[int, ...]


@dataclass
class Trace:
    """Every floating tensor that goes into and comes out of the layers of a module in one call, in order.

    ``last`` is the last feature map: the last tensor of three dimensions or more that stands before the head (the
    last layer that multiplies by a weight) or is read by it, and is not itself an output of the module. A layer with
    weights comes before it, and it covers more than one position, so it is the tensor before a final pooling. If
    there is none, it is the head's input.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    last: FeatureMap | None = None


def trace_maps(module: nn.Module, example: Tree) -> Trace:
    """Run ``module`` once on a batch, in the mode that it is in, and return what its layers read and gave."""
    recorder = _Recorder(module)
    try:
        with torch.no_grad():
            outputs = call_model(module, example)
    finally:
        recorder.close()
    shapes = {tap: tuple(x.shape) for tap, x in recorder.events}
    given = {_place(x) for x in leaves(outputs) if isinstance(x, torch.Tensor)}
    samples = len(leaves(example)[0])
    inner = [(tap, x) for tap, x in recorder.inner() if x.ndim > 1 and len(x) == samples and _place(x) not in given]
    last = next(((tap, x) for tap, x in reversed(inner) if _covers_positions(x)), None)
    if last is None and recorder.head:  # a model without maps, such as a perceptron
        last = next(((tap, x) for tap, x in reversed(inner) if tap == recorder.head + INPUT), None)
    return Trace(shapes, FeatureMap(last[0], tuple(last[1].shape)) if last else None)


class _Recorder:
    """Hooks on every layer below the root; the layer that multiplied by a weight last is the head."""

    def __init__(self, module: nn.Module) -> None:
        self.events: list[tuple[str, torch.Tensor]] = []
        self.head, self._head_at = "", 0
        self._first_at: int | None = None
        self._hooks: list[Any] = []
        for name, layer in module.named_modules():
            if name:
                self._hooks.append(layer.register_forward_pre_hook(self._reader(name, layer), with_kwargs=True))
                self._hooks.append(layer.register_forward_hook(self._giver(name, layer)))

    def inner(self) -> list[tuple[str, torch.Tensor]]:
        """Return the tensors from the first layer with weights to what the head reads, or to the end without a head."""
        first = len(self.events) if self._first_at is None else self._first_at
        return self.events[first : self._head_at if self.head else None]

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _reader(self, name: str, layer: nn.Module) -> Any:
        weighted = _has_weights(layer)

        def read(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._record(name + INPUT, [*leaves(inputs), *leaves(named)])
            if weighted:
                self.head = name if isinstance(layer, _HEADS) else ""
                self._head_at = len(self.events)

        return read

    def _giver(self, name: str, layer: nn.Module) -> Any:
        weighted = _has_weights(layer)

        def give(_: nn.Module, inputs: Any, outputs: Any) -> None:
            if weighted and self._first_at is None:
                self._first_at = len(self.events)
            self._record(name, leaves(outputs))

        return give

    def _record(self, tap: str, tensors: list[Any]) -> None:
        x = first_floating(tensors)
        if x is not None:
            self.events.append((tap, x))


def first_floating(tensors: list[Any]) -> torch.Tensor | None:
    """Return the first floating-point tensor of a list, None if there is none."""
    return next((x for x in tensors if isinstance(x, torch.Tensor) and x.is_floating_point()), None)


def _has_weights(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None


def _covers_positions(x: torch.Tensor) -> bool:
    if x.ndim < 3 or (x.shape[1] == 1 and x.ndim == 3):
        return False
    return math.prod(x.shape[2:]) > 1


def _place(x: torch.Tensor) -> int:
    return x.data_ptr()
