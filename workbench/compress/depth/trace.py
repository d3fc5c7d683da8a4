"""Trace a model once, and find for every module which inputs reach its outputs through an addition.

Operators are observed below autograd, so the style of a forward (functional sums, keyword arguments, nested outputs)
does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.compress.depth.pass_through import PLAIN, Form
from workbench.compress.graph.outputs import storage_of
from workbench.compress.model_ops import predict_with, removing, without_fast_path
from workbench.tasks.trees import Tree

Path = tuple[int | str, ...]
"""Place of an input: position or keyword, then keys within it."""

# Operators that a shortcut may pass on its way through a block.
_SAME = "clone contiguous _to_copy _unsafe_view alias detach lift_fresh view reshape dropout copy"
_ACTIVATIONS = (
    "relu relu6 hardtanh clamp clamp_min clamp_max leaky_relu elu celu selu gelu silu hardswish mish softplus "
    "_prelu_kernel"
)
_NORMS = (
    "native_layer_norm native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit "
    "native_group_norm _fused_rms_norm rms_norm"
)
_FIRST = frozenset(f"{_SAME} {_ACTIVATIONS} {_NORMS} sub addcmul addcdiv".split())


@dataclass(frozen=True)
class Call:
    """One call of a module.

    ``outputs`` is the structure of the outputs by inputs, or None with a ``reason``. ``additive``: an input reaches an
    output through an addition. ``shapes`` are those of the inputs and outputs.
    """

    outputs: Form | None
    reason: str
    additive: bool
    lone: bool
    shapes: tuple[tuple[int, ...], ...]


class _Carriers:
    """Tensors of a running call that carry an input, by storage."""

    def __init__(self, inputs: Mapping[Path, torch.Tensor]) -> None:
        self.inputs = inputs
        self._held: dict[int, dict[Path, bool]] = {}
        for path, tensor in inputs.items():
            if tensor.is_floating_point():
                self._held.setdefault(storage_of(tensor), {})[path] = False

    def in_tensor(self, value: object) -> dict[Path, bool]:
        """Return the inputs that a tensor carries, with whether there was an addition."""
        if not isinstance(value, torch.Tensor):
            return {}
        held = self._held.get(storage_of(value), {})
        return {path: added for path, added in held.items() if self.inputs[path].numel() == value.numel()}

    def follow(self, name: str, args: tuple[Any, ...], result: object) -> None:
        """Update the carriers after an operator."""
        first = result[0] if isinstance(result, tuple | list) and result else result
        if not isinstance(first, torch.Tensor):
            return
        place = storage_of(first)
        in_place = name.endswith("_") and not name.endswith("__")
        if not in_place and any(isinstance(arg, torch.Tensor) and storage_of(arg) == place for arg in args):
            return  # a view has the same storage
        carried = self._through(name.rstrip("_") if in_place else name, args)
        carried = {path: added for path, added in carried.items() if self.inputs[path].numel() == first.numel()}
        if carried:
            self._held[place] = carried
        else:
            self._held.pop(place, None)

    def _through(self, name: str, args: tuple[Any, ...]) -> dict[Path, bool]:
        if name == "add" and len(args) > 1:
            sides = [self.in_tensor(arg) for arg in args[:2]]
            added = isinstance(args[1], torch.Tensor)
            return {path: added or side[path] for side in sides for path in side}
        if name in ("mul", "div") and len(args) > 1:
            return self.in_tensor(args[0]) if isinstance(args[1], int | float) else {}
        if name == "copy":
            return self.in_tensor(args[1])
        if name not in _FIRST or not args:
            return {}
        added = name in ("sub", "addcmul", "addcdiv")
        return {path: added or before for path, before in self.in_tensor(args[0]).items()}


class _Watch(TorchDispatchMode):
    """Pass each operator to all running calls; results are kept alive, so that no storage is reused."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[_Carriers] = []
        self._kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._kept.append(result)
        for carriers in self.running:
            carriers.follow(func.overloadpacket.__name__, args, result)
        return result


def trace_calls(module: nn.Module, example: Tree) -> dict[str, list[Call]]:
    """Return the calls of every submodule while ``module`` runs on ``example``, by the first name of each."""
    calls: dict[str, list[Call]] = {name: [] for name, _ in module.named_modules()}
    watch = _Watch()

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.running.append(_Carriers(dict(_tensors({**dict(enumerate(args)), **kwargs}))))

    def end(name: str) -> Any:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
            calls[name].append(_call(watch.running.pop(), len(args) == 1 and not kwargs, outputs))

        return record

    hooks: list[Any] = []
    for name, layer in module.named_modules():
        hooks.append(layer.register_forward_pre_hook(begin, with_kwargs=True))
        hooks.append(layer.register_forward_hook(end(name), with_kwargs=True))
    with removing(hooks), without_fast_path(), watch:
        predict_with(module, example)
    return calls


def _call(carriers: _Carriers, lone: bool, outputs: Any) -> Call:
    shapes = tuple(tuple(t.shape) for t in (*carriers.inputs.values(), *dict(_tensors(outputs)).values()))
    additive: list[Path] = []
    try:
        form = _form(carriers, outputs, "its output", additive)
    except _NotAnInputError as error:
        return Call(None, str(error), bool(additive), lone, shapes)
    if not additive:
        return Call(None, "its input does not reach its output through an addition", False, lone, shapes)
    return Call(form, "", True, lone, shapes)


class _NotAnInputError(Exception):
    """An output that is not an input; the message is the reason."""


def _form(carriers: _Carriers, value: Any, where: str, additive: list[Path]) -> Form:
    """Return the form of ``value`` by inputs; inputs with an addition are appended to ``additive``."""
    if isinstance(value, torch.Tensor):
        return ("input", *_source(carriers, value, where, additive))
    if isinstance(value, PLAIN):
        return ("constant", value)
    if type(value) in (tuple, list):
        parts = [(f"output {number}", part) for number, part in enumerate(value)]
        return (type(value).__name__, *_forms(carriers, [part for _, part in parts], [w for w, _ in parts], additive))
    if type(value) is dict:
        forms = _forms(carriers, list(value.values()), [f"output {key!r}" for key in value], additive)
        return ("dict", *zip(value, forms, strict=True))
    raise _NotAnInputError(f"{where} is a {type(value).__name__}, which a pass-through cannot make")


def _forms(carriers: _Carriers, values: list[Any], words: list[str], additive: list[Path]) -> list[Form]:
    """Return the forms of several outputs, all of them for ``additive``."""
    forms: list[Form] = []
    failure: _NotAnInputError | None = None
    for value, where in zip(values, words, strict=True):
        try:
            forms.append(_form(carriers, value, where, additive))
        except _NotAnInputError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return forms


def _source(carriers: _Carriers, value: torch.Tensor, where: str, additive: list[Path]) -> Path:
    """Return the input that an output tensor carries or is."""
    for path, added in carriers.in_tensor(value).items():
        given = carriers.inputs[path]
        if added and (given.shape, given.dtype) == (value.shape, value.dtype):
            additive.append(path)
            return path
    for path, given in carriers.inputs.items():
        if storage_of(given) == storage_of(value) and (given.shape, given.stride()) == (value.shape, value.stride()):
            return path
    shapes = {tuple(given.shape) for given in carriers.inputs.values() if given.dtype == value.dtype}
    if tuple(value.shape) not in shapes:
        before = ", ".join(map(str, sorted(map(list, shapes)))) or "none"
        raise _NotAnInputError(f"{where} has another shape than every input ({before} -> {list(value.shape)})")
    raise _NotAnInputError(f"{where} is computed inside, without an addition of an input")


def _tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, (*path, key))
    elif isinstance(value, tuple | list):
        for number, part in enumerate(value):
            yield from _tensors(part, (*path, number))
