"""BatchNorm merged into the convolution before it, where that changes nothing, proven on real samples."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.compress.graph.batchnorm import BatchNorm
from workbench.compress.model_ops import predict_with
from workbench.tasks.trees import Tree, leaves

Conv = nn.modules.conv._ConvNd
# Of the largest output; folding changes the order of float32 additions only.
_TOLERANCE = 1e-4


@dataclass
class _Use:
    """What a layer was given and what it made, a pair for each of its calls while the model ran once."""

    calls: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass
class _Uses:
    """All that was seen: each layer's use, how often each tensor was computed with, and what the model gave out."""

    layers: dict[str, _Use] = field(default_factory=dict)
    reads: collections.Counter[int] = field(default_factory=collections.Counter)
    outputs: frozenset[int] = frozenset()
    kept: list[Any] = field(default_factory=list)


def fold_batch_norms(module: nn.Module, example: Tree) -> dict[str, str]:
    """Fold in place each BatchNorm that alone takes the output of one convolution; return what became of every one.

    Whose output goes where is seen in a run on ``example``, operation by operation. Every fold is tried on
    ``example`` and taken back where the outputs change. The values start with ``"folded into"``, or say why not.
    """
    module.eval()
    expected = leaves(predict_with(module, example))
    uses = _watch(module, example)
    found = {}
    for name, norm in [(n, m) for n, m in module.named_modules() if isinstance(m, BatchNorm)]:
        conv, reason = _partner(module, name, norm, uses)
        found[name] = reason or _try(module, name, conv, example, expected)
    return found


def _watch(module: nn.Module, example: Tree) -> _Uses:
    """Run the module once and note every use of every tensor."""
    uses, hooks = _Uses(), []
    for name, layer in module.named_modules():
        if isinstance(layer, Conv | BatchNorm):
            use = uses.layers[name] = _Use()
            hooks.append(layer.register_forward_hook(_noting(use)))
    try:
        with _Reads(uses):
            outputs = predict_with(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    uses.outputs = frozenset(map(id, leaves(outputs)))
    uses.kept.append(outputs)
    return uses


def _noting(use: _Use) -> Any:
    def note(layer: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        use.calls.append((given[0] if given else None, made))

    return note


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often each tensor is an argument of an operation."""

    def __init__(self, uses: _Uses) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._uses = uses

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors([*args, *(kwargs or {}).values()]):
            self._uses.reads[id(tensor)] += 1
            self._uses.kept.append(tensor)  # an id is of use only while its tensor lives
        return func(*args, **(kwargs or {}))


def _tensors(values: Iterable[Any]) -> Iterable[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _partner(module: nn.Module, name: str, norm: BatchNorm, uses: _Uses) -> tuple[str, str | None]:
    """Return the convolution that ``norm`` can be folded into, or why there is none."""
    calls = uses.layers[name].calls
    if len(calls) != 1:
        return "", f"runs {len(calls)} times" if calls else "is not reached from the model's inputs"
    if norm.running_mean is None or norm.running_var is None:
        return "", "keeps no running statistics"
    made = calls[0][0]
    makers = [n for n, use in uses.layers.items() if n != name and any(out is made for _, out in use.calls)]
    if len(makers) != 1 or not isinstance(module.get_submodule(makers[0]), Conv):
        return "", "does not follow a convolution"
    conv = module.get_submodule(makers[0])
    if "weight" not in conv._parameters or (getattr(conv, "transposed", False) and getattr(conv, "groups", 1) != 1):
        return "", f"{makers[0]} is of a kind that cannot be folded"
    if len(uses.layers[makers[0]].calls) != 1 or uses.reads[id(conv.weight)] != 1:
        return "", f"{makers[0]} is used more than once"
    if uses.reads[id(made)] != 1 or id(made) in uses.outputs:
        return "", f"others take the output of {makers[0]} too"
    return makers[0], None


def _try(module: nn.Module, name: str, conv: str, example: Tree, expected: list[Any]) -> str:
    """Fold one pair, and take it back where the outputs change."""
    old, norm = module.get_submodule(conv), module.get_submodule(name)
    with torch.no_grad():
        new = fuse_conv_bn_eval(old, norm, transpose=bool(getattr(old, "transposed", False)))  # type: ignore[type-var, arg-type]
    _put(module, conv, new)
    _put(module, name, nn.Identity())
    try:
        reason = _difference(leaves(predict_with(module, example)), expected)
    except Exception as error:  # noqa: BLE001 - the model's own code may need anything of the norm
        reason = f"the model fails without it ({type(error).__name__}: {error})"
    if reason is None:
        return f"folded into {conv}"
    _put(module, conv, old)
    _put(module, name, norm)
    return reason


def _difference(outputs: list[Any], expected: list[Any]) -> str | None:
    for mine, wanted in zip(outputs, expected, strict=True):
        if not wanted.is_floating_point():
            continue
        apart, scale = float((mine - wanted).abs().max()), float(wanted.abs().max())
        if not apart <= _TOLERANCE * scale + 1e-6:
            return f"folding it changes the outputs by {apart:.2g}"
    return None


def _put(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, last = path.rpartition(".")
    module.get_submodule(parent)._modules[last] = layer.train(module.training)
