"""Describe a module as edits of ``build()`` in JSON, and replay them.

Replay constructs only submodules of the types in ``TYPES`` and sets only plain values: it runs no code from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from workbench.compress.depth.pass_through import PassThrough
from workbench.core.errors import ArtifactError, first_line

_Args = Callable[[Any], dict[str, Any]]


def _values_of(*names: str) -> _Args:
    return lambda module: {
        name: (module.bias is not None if name == "bias" else getattr(module, name)) for name in names
    }


_CONV = _values_of(
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "bias")
)
_NORM = _values_of("num_features", "eps", "momentum", "affine", "track_running_stats")
_POOL = _values_of("kernel_size", "stride", "padding")
_NOTHING = (nn.Sequential, nn.ModuleList, nn.Identity, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh)

_ARGUMENTS: dict[type[nn.Module], _Args] = {
    nn.Linear: _values_of("in_features", "out_features", "bias"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _NORM),
    nn.LayerNorm: _values_of("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: _values_of("num_groups", "num_channels", "eps", "affine"),
    nn.Embedding: _values_of("num_embeddings", "embedding_dim"),
    **dict.fromkeys((nn.AvgPool2d, nn.MaxPool2d), _POOL),
    nn.AdaptiveAvgPool2d: _values_of("output_size"),
    PassThrough: _values_of("outputs"),
    nn.Flatten: _values_of("start_dim", "end_dim"),
    nn.Dropout: _values_of("p"),
    nn.GELU: _values_of("approximate"),
    **dict.fromkeys(_NOTHING, _values_of()),
}
TYPES = {kind.__name__: kind for kind in _ARGUMENTS}
"""Submodule types that an artifact may construct."""

_PLAIN = (bool, int, float, str, type(None))
_OWN = frozenset(vars(nn.Module()))
_ABSENT = object()


class StructureError(Exception):
    """A module that cannot be described."""


def describe_structure(module: nn.Module, base: nn.Module) -> dict[str, Any]:
    """Return the edits that turn ``base`` into the structure of ``module`` (else StructureError), and apply them."""
    edits: dict[str, Any] = {"modules": {}, "removed": [], "order": {}, "attributes": {}, "tensors": {}, "aliases": {}}
    first_paths: dict[int, str] = {}
    for path, target in module.named_modules(remove_duplicate=False):
        first = first_paths.setdefault(id(target), path)
        edit = _module_edit(path, target, first, base)
        if edit is not None:
            edits["modules"][path] = edit
            _put_module(base, path, edit)
    paths = {path for path, _ in module.named_modules(remove_duplicate=False)}
    for path in [p for p, _ in base.named_modules(remove_duplicate=False) if p not in paths]:
        if not any(path.startswith(f"{parent}.") for parent in edits["removed"]):
            edits["removed"].append(path)
    for path, target in module.named_modules():
        current = base.get_submodule(path)
        names = list(target._modules)
        if [n for n in current._modules if n in names] != names:
            edits["order"][path] = names
        if attributes := _attribute_edits(path, target, current):
            edits["attributes"][path] = attributes
        if tensors := _tensor_edits(target, current):
            edits["tensors"][path] = tensors
    edits["aliases"] = aliases(module)
    _untie(edits, module, base)
    return edits


def _untie(edits: dict[str, Any], module: nn.Module, base: nn.Module) -> None:
    """Add a tensor edit for each name that is an alias in ``base`` only."""
    for name, owner in aliases(base).items():
        path, _, last = name.rpartition(".")
        if edits["aliases"].get(name) != owner and name in dict(own_tensors(module, duplicates=True)):
            store = module.get_submodule(path)
            kind = "_parameters" if last in store._parameters else "_buffers"
            edits["tensors"].setdefault(path, {})[last] = _tensor_form(kind, getattr(store, kind)[last])


def replay(base: nn.Module, edits: Mapping[str, Any]) -> nn.Module:
    """Apply the edits of :func:`describe_structure` to a fresh ``build()``.

    New tensors are on the device ``meta`` until :func:`set_weights`. Raises ArtifactError if the edits do not fit the
    module, or name a type that is not allowed.
    """
    try:
        for path, edit in edits["modules"].items():
            _put_module(base, path, edit)
        for path in edits["removed"]:
            parent, _, name = path.rpartition(".")
            del base.get_submodule(parent)._modules[name]
        for path, names in edits["order"].items():
            children = base.get_submodule(path)._modules
            for name in names:
                children[name] = children.pop(name)
        for path, values in edits["attributes"].items():
            for name, value in values.items():
                _set_attribute(base.get_submodule(path), name, _decode(value))
        for path, tensors in edits["tensors"].items():
            for name, edit in tensors.items():
                _set_tensor(base.get_submodule(path), name, edit)
        for name, owner in edits["aliases"].items():
            _set_alias(base, name, owner)
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ArtifactError(
            f"The artifact's structure does not fit the module that build() makes: {first_line(error)}. Use the build "
            "function of the task that it was saved with."
        ) from error
    return base


def own_tensors(module: nn.Module, *, duplicates: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers, including non-persistent ones; shared ones once unless ``duplicates``."""
    yield from module.named_parameters(remove_duplicate=not duplicates)
    yield from module.named_buffers(remove_duplicate=not duplicates)


def aliases(module: nn.Module) -> dict[str, str]:
    """Return the second names of tensors, with the first name."""
    owners: dict[int, str] = {}
    return {
        name: owners[id(tensor)]
        for name, tensor in own_tensors(module, duplicates=True)
        if owners.setdefault(id(tensor), name) != name
    }


def _type_key(module: nn.Module) -> tuple[str, str]:
    # a class defined inside build() is a new object per call
    return type(module).__module__, type(module).__qualname__


def _module_edit(path: str, target: nn.Module, first: str, base: nn.Module) -> dict[str, Any] | None:
    try:
        current: nn.Module | None = base.get_submodule(path)
    except AttributeError:
        current = None
    if first != path:
        return None if current is not None and current is base.get_submodule(first) else {"same_as": first}
    if current is not None and _type_key(current) == _type_key(target):
        return None
    name = type(target).__name__
    if type(target) not in _ARGUMENTS or not path:
        original = "nothing" if current is None else f"a {type(current).__name__}"
        raise StructureError(f"{path or 'the module itself'} is a {name}, and build() has {original}")
    return {"type": name, "args": {key: _encode(value) for key, value in _ARGUMENTS[type(target)](target).items()}}


def _put_module(base: nn.Module, path: str, edit: Mapping[str, Any]) -> None:
    parent, _, name = path.rpartition(".")
    if "same_as" in edit:
        module = base.get_submodule(edit["same_as"])
    elif edit["type"] in TYPES:
        with torch.device("meta"):
            module = TYPES[edit["type"]](**{key: _decode(value) for key, value in edit["args"].items()})
    else:
        raise ValueError(f"type {edit['type']!r} is not among those allowed")
    base.get_submodule(parent)._modules[name] = module.eval()


def _attribute_edits(path: str, target: nn.Module, current: nn.Module) -> dict[str, Any]:
    edits = {}
    for name, value in vars(target).items():
        if name in _OWN:
            continue
        old = vars(current).get(name, _ABSENT)
        if isinstance(value, torch.Tensor):
            if not (isinstance(old, torch.Tensor) and old.shape == value.shape and torch.equal(old, value)):
                raise StructureError(f"{path}.{name} is a changed tensor that is neither parameter nor buffer")
        elif _is_plain(value) and not (_is_plain(old) and _encode(old) == _encode(value)):
            edits[name] = _encode(value)
    return edits


def _tensor_edits(target: nn.Module, current: nn.Module) -> dict[str, Any]:
    edits: dict[str, Any] = {}
    for kind in ("_parameters", "_buffers"):
        new, old = getattr(target, kind), getattr(current, kind)
        for name in new.keys() | old.keys():
            a, b = _tensor_form(kind, new.get(name)), _tensor_form(kind, old.get(name))
            if a != b or name not in new or name not in old:
                edits[name] = a if name in new else {"kind": kind, "absent": True}
    return edits


def _tensor_form(kind: str, tensor: torch.Tensor | None) -> dict[str, Any]:
    if tensor is None:
        return {"kind": kind, "shape": None}
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"kind": kind, "shape": list(tensor.shape), "dtype": dtype, "grad": tensor.requires_grad}


def _set_tensor(module: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    if edit["kind"] not in ("_parameters", "_buffers"):
        raise ValueError(f"unknown kind of tensor {edit['kind']!r}")
    store = getattr(module, edit["kind"])
    if edit.get("absent"):
        store.pop(name, None)
        return
    if edit["shape"] is None:
        store[name] = None
        return
    dtype = getattr(torch, edit["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"unknown dtype {edit['dtype']!r}")
    tensor = torch.zeros(edit["shape"], dtype=dtype, device="meta")
    store[name] = nn.Parameter(tensor, requires_grad=edit["grad"]) if edit["kind"] == "_parameters" else tensor


def _set_alias(base: nn.Module, name: str, owner: str) -> None:
    def place(path: str) -> tuple[dict[str, Any], str]:
        parent, _, last = path.rpartition(".")
        module = base.get_submodule(parent)
        return (module._parameters if last in module._parameters else module._buffers), last

    store, last = place(name)
    source, key = place(owner)
    store[last] = source[key]


def _set_attribute(module: nn.Module, name: str, value: Any) -> None:
    if name in _OWN or name.startswith("__") or not name.isidentifier() or callable(getattr(type(module), name, None)):
        raise ValueError(f"attribute {name!r} must not be set")
    vars(module)[name] = value


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _encode(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [_encode(item) for item in value]}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        ((kind, items),) = value.items()
        return (tuple if kind == "tuple" else list)(_decode(item) for item in items)
    return value
