"""Prepare the module that a task's ``build`` returns, and control its inputs and outputs by hooks."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from workbench.core.errors import TaskError
from workbench.tasks.trees import Tree, call_model, leaves, to_builtins, tree_map

M = TypeVar("M", bound=nn.Module)


def build_module(build: Callable[[], nn.Module], *, whose: str) -> nn.Module:
    """Return a copy of the module that ``build`` returns, on the CPU, float32, in eval mode.

    Raises
    ------
    TaskError
        If ``build`` fails, or returns anything but a module that can be copied; ``whose`` begins the message.
    """
    try:
        module = build()
    except Exception as error:
        raise TaskError(f"{whose}: build() failed: {type(error).__name__}: {error}") from error
    return prepare_module(module, maker=f"{whose}: build()", whose=f"{whose}: the module from build()")


def prepare_module(module: Any, *, maker: str, whose: str) -> nn.Module:
    """Return a copy of a user's module, on the CPU, float32, in eval mode.

    Raises
    ------
    TaskError
        If ``module`` is not a module (the message begins with ``maker``) or cannot be copied (with ``whose``).
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
        hooks: list[Any] = [hook for hook in part._forward_pre_hooks.values() if _computes(hook)]
        for hook in hooks:
            by_norm = type(hook).__name__ == "WeightNorm"
            (nn.utils.remove_weight_norm if by_norm else nn.utils.remove_spectral_norm)(part, hook.name)
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
    return module


def _computes(hook: Any) -> bool:
    """Return True for torch's hooks that compute a weight before each call."""
    return type(hook).__module__ in ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")


def copy_module(module: M, *, whose: str = "The model") -> M:
    """Return a deep copy of a module; tensors that it holds with an autograd graph are copied without the graph.

    Raises
    ------
    TaskError
        If it cannot be copied; the message names the attribute that fails.
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
    return tree_map(_cloned, args), tree_map(_cloned, kwargs)


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


@contextlib.contextmanager
def plain_outputs(module: nn.Module) -> Iterator[None]:
    """Convert a module's outputs to builtin tuples, lists and dicts in the block, because exporters need these."""
    handle = module.register_forward_hook(_plain)
    try:
        yield
    finally:
        handle.remove()


def _plain(_module: nn.Module, _args: Any, outputs: Any) -> Any:
    return to_builtins(outputs)


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
