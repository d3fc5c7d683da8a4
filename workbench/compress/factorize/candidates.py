"""Find the layers that can be factorized, and the reasons against the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.compress.layer_selection import excluded_names, holds_matrix
from workbench.compress.model_ops import is_hf_conv1d, predict_with, removing
from workbench.compress.steps import Factorize
from workbench.tasks.trees import Tree, batch_size, call_model

Convolution = nn.Conv1d | nn.Conv2d
_KINDS = {kind.__name__: kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)}


@dataclass(frozen=True)
class CandidateLayer:
    """A layer that can be factorized, under all its ``names`` in the model.

    ``inner`` and ``outer`` are its input and output positions per sample (pixels, tokens); ``middle`` has the output's
    first axis and the input's second.
    """

    names: tuple[str, ...]
    layer: nn.Module
    inner: float
    middle: float
    outer: float

    @property
    def name(self) -> str:
        """Its first name."""
        return self.names[0]

    @property
    def groups(self) -> int:
        """Groups of a convolution, else 1."""
        return self.layer.groups if isinstance(self.layer, Convolution) else 1

    @property
    def weight(self) -> torch.Tensor:
        """Weight as float64 ``[groups, out, in, *kernel]``, per group; the rows of an embedding are ``in``."""
        raw: Any = self.layer.weight
        weight: torch.Tensor = raw.detach().double()
        if isinstance(self.layer, nn.Embedding) or is_hf_conv1d(self.layer):
            weight = weight.T
        return weight.reshape(self.groups, -1, *weight.shape[1:])

    @property
    def params(self) -> int:
        """Number of weights, without the bias."""
        raw: Any = self.layer.weight
        return int(raw.numel())

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample; 0 for an embedding."""
        return 0.0 if isinstance(self.layer, nn.Embedding) else self.params * self.outer

    def methods(self, conv: str) -> tuple[str, ...]:
        """Return the decompositions to consider for an option ``conv``; layers without a kernel have only one."""
        if not isinstance(self.layer, Convolution):
            return ("svd",)
        usable: tuple[str, ...] = ("channel", "spatial", "tucker2")
        if math.prod(self.layer.kernel_size) == 1:
            usable = ("channel",)
        elif len(self.layer.kernel_size) == 1:
            usable = ("channel", "tucker2")
        if is_depthwise(self.layer):
            usable = tuple(method for method in usable if method == "spatial")
        if conv == "auto":
            return usable
        return (conv,) if conv in usable else usable[:1]


def find_candidates(step: Factorize, module: nn.Module, example: Tree) -> tuple[list[CandidateLayer], dict[str, str]]:
    """Return the layers that can be factorized, in the model's order, and the reason for every other layer."""
    excluded = excluded_names(module, step.exclude, where="Factorize")
    names: dict[nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, tuple(_KINDS.values())) or is_hf_conv1d(layer):
            names.setdefault(layer, []).append(name)
    counts = Counter(p for child in module.modules() for p in child.parameters(recurse=False))
    calls, shared = _calls(names, module, example), {parameter for parameter, count in counts.items() if count > 1}
    candidates: list[CandidateLayer] = []
    reasons: dict[str, str] = {}
    for layer, all_names in names.items():
        reason = "excluded by name" if excluded & set(all_names) else refusal(layer, step)
        if reason is None and layer not in calls:
            reason = "its forward is not called: the model uses its weight directly"
        if reason is None and layer.weight in shared:
            reason = "its weight is shared with another layer"
        if reason is None and not all(all_names):
            reason = "it is the whole model"
        if reason is None:
            candidates.append(_candidate(tuple(all_names), layer, calls[layer], batch_size(example)))
        else:
            reasons[all_names[0]] = reason
    for name, layer in module.named_modules():
        if layer not in names and holds_matrix(layer):
            reasons[name] = _unsupported(layer)
    broken = _unreplaceable(module, candidates, example)
    return [candidate for candidate in candidates if candidate.name not in broken], reasons | broken


def replace_layer(module: nn.Module, names: Sequence[str], new: nn.Module) -> None:
    """Replace a layer by ``new`` under all its names."""
    for name in names:
        module.set_submodule(name, new)


def refusal(layer: nn.Module, step: Factorize) -> str | None:
    """Return why a layer cannot be factorized, or None."""
    kind = next((word for word, cls in _KINDS.items() if isinstance(layer, cls)), "Linear")
    if kind not in step.types:
        return "not among the types"
    # before the check of its type, which parametrizing changes
    if nn.utils.parametrize.is_parametrized(layer):
        return "its weight is parametrized"
    if type(layer) is not _KINDS[kind] and not is_hf_conv1d(layer):
        return f"a {type(layer).__name__} is a subclass of {kind}"
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return "its rows are normalized at look-up (max_norm)"
    if isinstance(layer, Convolution) and is_depthwise(layer):
        kernel = layer.kernel_size
        if step.conv not in ("spatial", "auto") or len(kernel) != 2 or min(kernel) == 1:
            flat = len(kernel) == 1 or math.prod(kernel) == 1
            return "depthwise: full rank across channels" + ("" if flat else "; conv='spatial' can cut it")
    return None


def _unsupported(layer: nn.Module) -> str:
    if isinstance(layer, nn.RNNBase):
        return "recurrent: its operator has no factorized form"
    if isinstance(layer, nn.MultiheadAttention):
        return "attention: its joined projection weight cannot be replaced by layers"
    return f"a {type(layer).__name__} is not one of {', '.join(_KINDS)}"


def is_depthwise(layer: Convolution) -> bool:
    """Return whether every group has one input or one output channel."""
    return layer.groups > 1 and layer.groups in (layer.in_channels, layer.out_channels)


def _calls(names: dict[nn.Module, list[str]], module: nn.Module, example: Tree) -> dict[nn.Module, list[Any]]:
    """Return input and output shapes of each call of the layers."""
    calls: dict[nn.Module, list[Any]] = {}

    def record(layer: nn.Module, inputs: Any, output: Any) -> None:
        if inputs and torch.is_tensor(inputs[0]) and torch.is_tensor(output):
            calls.setdefault(layer, []).append((tuple(inputs[0].shape), tuple(output.shape)))

    with removing(layer.register_forward_hook(record) for layer in names), torch.enable_grad():
        call_model(module, example)  # without gradients, fused attention kernels call no layer
    return calls


def _candidate(names: tuple[str, ...], layer: nn.Module, calls: list[Any], samples: int) -> CandidateLayer:
    inner = middle = outer = 0.0
    for source, result in calls:
        if isinstance(layer, Convolution):
            axes = len(layer.kernel_size)
            batch = math.prod(source[: -axes - 1])  # empty for an unbatched image
            inner += batch * math.prod(source[-axes:])
            middle += batch * math.prod((*result[-axes:-1], source[-1]))
            outer += batch * math.prod(result[-axes:])
        else:
            outer += math.prod(result[:-1])
    if not isinstance(layer, Convolution):
        inner = middle = outer
    return CandidateLayer(names, layer, inner / samples, middle / samples, outer / samples)


def _unreplaceable(module: nn.Module, candidates: Sequence[CandidateLayer], example: Tree) -> dict[str, str]:
    """Return layers that the model's forward reaches into, by trying each inside a Sequential."""
    if _error_with(module, candidates, example) is None:
        return {}
    reasons = {}
    for candidate in candidates:
        error = _error_with(module, [candidate], example)
        if error is not None:
            reasons[candidate.name] = f"the model's forward fails with several layers in its place ({error})"
    return reasons


def _error_with(module: nn.Module, candidates: Sequence[CandidateLayer], example: Tree) -> str | None:
    for candidate in candidates:
        replace_layer(module, candidate.names, nn.Sequential(candidate.layer).train(candidate.layer.training))
    try:
        predict_with(module, example)
    except Exception as error:  # noqa: BLE001 - a forward that reaches into the layer may raise anything
        return f"{type(error).__name__}: {error}"
    finally:
        for candidate in candidates:
            replace_layer(module, candidate.names, candidate.layer)
    return None
