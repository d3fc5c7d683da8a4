"""Prepare the module that a task's ``build`` returns, and control its inputs and outputs by hooks."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from workbench.core.errors import InputError, TaskError
from workbench.tasks.split import raw_bytes
from workbench.tasks.trees import Tree, call_model, leaves, to_builtins, tree_map

M = TypeVar("M", bound=nn.Module)
Shape = tuple[int | None, ...]
"""Shape of one sample; None for a dimension of any size."""


def build_module(build: Callable[[], nn.Module], *, whose: str) -> nn.Module:
    """Return a copy of the module that ``build`` returns, on the CPU, float32, in eval mode.

    Raises TaskError, whose message begins with ``whose``, if ``build`` fails or returns no module that can be copied.
    """
    try:
        module = build()
    except Exception as error:
        raise TaskError(f"{whose}: build() failed: {type(error).__name__}: {error}") from error
    return prepare_module(module, maker=f"{whose}: build()", whose=f"{whose}: the module from build()")


def prepare_module(module: Any, *, maker: str, whose: str) -> nn.Module:
    """Return a copy of a user's module, on the CPU, float32, in eval mode.

    Raises TaskError if it is not a module (the message begins with ``maker``) or cannot be copied (with ``whose``).
    """
    if not isinstance(module, nn.Module):
        raise TaskError(f"{maker} must return a torch.nn.Module, got {type(module).__name__}.")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    # a function may return the same module each time, which must not be pruned or trained
    own: nn.Module = copy_module(module, whose=whose)
    return fold_parametrizations(own.to("cpu").float().eval())


def fold_parametrizations(module: M) -> M:
    """Store weights that are computed in each call (weight norm, spectral norm, parametrizations); return the module.

    A computed weight can be neither pruned nor quantized.
    """
    for part in module.modules():
        hooks: list[Any] = list(part._forward_pre_hooks.values())
        for hook in hooks:
            if type(hook).__module__ == "torch.nn.utils.weight_norm":
                nn.utils.remove_weight_norm(part, hook.name)
            elif type(hook).__module__ == "torch.nn.utils.spectral_norm":
                nn.utils.remove_spectral_norm(part, hook.name)
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    return module


def copy_module(module: M, *, whose: str = "The model") -> M:
    """Return a deep copy of a module; tensors that it holds with an autograd graph are copied without the graph.

    Raises TaskError that names the attribute that cannot be copied.
    """
    # deepcopy fails for tensors with a graph: kept activations, and the results of weight_norm
    kept = {id(tensor): tensor for part in module.modules() for tensor in _tensors(vars(part), depth=4)}
    memo: dict[int, Any] = {key: tensor.detach().clone() for key, tensor in kept.items() if tensor.grad_fn is not None}
    try:
        with warnings.catch_warnings():  # captured graphs hold a deprecated type of torch
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
            return copy.deepcopy(module, memo)
    except Exception as error:
        raise TaskError(
            f"{whose} cannot be copied: {type(error).__name__}: {error}. Keep locks, open files and generators out of "
            f"it{_culprit(module)}."
        ) from error


def _tensors(value: Any, *, depth: int) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and not isinstance(value, nn.Module | type | ModuleType):
        inner: Any = ()
        if isinstance(value, Mapping):
            inner = value.values()
        elif isinstance(value, list | tuple | set):
            inner = value
        elif hasattr(value, "__dict__") and not callable(value):
            inner = vars(value).values()
        for part in list(inner):
            yield from _tensors(part, depth=depth - 1)


def _culprit(module: nn.Module) -> str:
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in ("_modules", "_parameters", "_buffers"):
                try:
                    copy.deepcopy(value)
                except Exception:  # noqa: BLE001 - whatever a value's own __deepcopy__ raises
                    return f" ({'.'.join(filter(None, (path, name)))} is a {type(value).__name__})"
    return ""


def protect_inputs(module: M, inputs: Tree) -> M:
    """Add :func:`copy_inputs` to a module that modifies its inputs, tested on ``inputs``; return the module."""
    return copy_inputs(module) if writes_inputs(module, inputs) else module


def copy_inputs(module: M) -> M:
    """Add a hook that copies the inputs of each call, and return the module.

    ``ReLU(inplace=True)`` as the first layer, or ``x -= mean``, would otherwise modify the caller's data.
    """
    if not any(hook is _copy_inputs for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_copy_inputs, with_kwargs=True, prepend=True)
    return module


def writes_inputs(module: nn.Module, inputs: Tree) -> bool:
    """Return whether a call of ``module`` changes its inputs; False if it cannot be called with them."""
    clones = tree_map(torch.clone, inputs)
    before = [leaf._version for leaf in leaves(clones)]
    try:
        with torch.no_grad():
            call_model(copy_module(module), clones)
    except Exception:  # noqa: BLE001 - the next call reports it
        return False
    return any(leaf._version != version for leaf, version in zip(leaves(clones), before, strict=True))


def _copy_inputs(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    def clone(value: Any) -> Any:
        return value.clone() if isinstance(value, torch.Tensor) else value

    return tree_map(clone, args), tree_map(clone, kwargs)


@contextlib.contextmanager
def plain_outputs(module: nn.Module) -> Iterator[None]:
    """Convert a module's outputs to builtin tuples, lists and dicts in the block, because exporters need these."""
    handle = module.register_forward_hook(lambda _module, _args, outputs: to_builtins(outputs))
    try:
        yield
    finally:
        handle.remove()


def restore_output_structure(module: M, form: Tree) -> M:
    """Add a hook that returns the outputs in the structure of ``form``, and return the module."""
    if not _is_plain(form):
        module.register_forward_hook(_OutputStructure(form))
    return module


def _is_plain(tree: Tree) -> bool:
    if isinstance(tree, Mapping):
        return type(tree) is dict and all(map(_is_plain, tree.values()))
    if isinstance(tree, tuple | list):
        return type(tree) in (tuple, list) and all(map(_is_plain, tree))
    return True


class _OutputStructure:
    """Forward hook that restores named tuples and attribute dicts, which captured graphs lack."""

    def __init__(self, form: Tree) -> None:
        self._form = tree_map(lambda _: 0, form)

    def __call__(self, _module: nn.Module, _args: Any, outputs: Any) -> Tree:
        values = iter(leaves(outputs))
        return tree_map(lambda _: next(values), self._form)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _OutputStructure:
        return self


def require_sizes(module: M, names: Sequence[str], shapes: Sequence[Shape]) -> M:
    """Add a hook that raises InputError for inputs of other sizes, and return the module.

    ``names`` are keyword inputs of ``forward``, empty if they are positional; ``shapes`` are in their order.
    """
    module.register_forward_pre_hook(_Sizes(tuple(names), tuple(shapes)), with_kwargs=True, prepend=True)
    return module


class _Sizes:
    """Forward pre-hook; inactive during compilation and tracing."""

    def __init__(self, names: tuple[str, ...], shapes: tuple[Shape, ...]) -> None:
        self._names, self._shapes = names, shapes

    def __call__(self, _module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        given = [kwargs[name] for name in self._names if name in kwargs] if self._names else leaves(args)
        for place, (tensor, shape) in enumerate(zip(given, self._shapes, strict=False)):
            for dim, size in enumerate(shape, 1):
                if size is not None and (tensor.ndim != len(shape) + 1 or tensor.shape[dim] != size):
                    name = self._names[place] if self._names else f"input {place}"
                    expected = ["n", *("any" if size is None else size for size in shape)]
                    raise InputError(
                        f"{name} must have the shape {expected}, got {list(tensor.shape)}: the graph was captured with "
                        "these sizes. Cut or pad the inputs, or declare the dimension: Task(dynamic=...)."
                    )


def weights_digest(module: nn.Module) -> str:
    """Return the sha256 (hex) over names, dtypes, shapes and bytes of a module's parameters and buffers."""
    total = hashlib.sha256()
    for key, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            total.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
            total.update(raw_bytes(value.cpu()))
    return total.hexdigest()
