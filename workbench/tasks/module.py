"""The module that a task's ``build`` makes, as every part of the workbench uses it: the same in every process."""

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
from workbench.tasks.trees import Tree, call_model, leaves, plain_tree, tree_map

M = TypeVar("M", bound=nn.Module)


def own_module(build: Callable[[], nn.Module], *, whose: str) -> nn.Module:
    """Return what ``build`` makes: a copy, on the CPU, float32, in eval mode.

    Raises
    ------
    TaskError
        If ``build`` fails, gives no module, or one that cannot be copied; ``whose`` begins the message.
    """
    try:
        module = build()
    except Exception as error:
        raise TaskError(f"{whose}: build() failed: {type(error).__name__}: {error}") from error
    return as_own_module(module, maker=f"{whose}: build()", whose=f"{whose}: the module that build() makes")


def as_own_module(module: Any, *, maker: str, whose: str) -> nn.Module:
    """Return a copy of what a function of the user's made, on the CPU, float32, in eval mode.

    Raises
    ------
    TaskError
        If it is no module, with ``maker`` as the subject, or cannot be copied, with ``whose``.
    """
    if not isinstance(module, nn.Module):
        raise TaskError(f"{maker} must return a torch.nn.Module, got {type(module).__name__}.")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module  # on one device it does nothing but hide the model
    # a function that hands out one module again and again must not see it pruned or trained
    copied: nn.Module = copied_module(module, whose=whose)
    return plain_weights(copied.to("cpu").float().eval())


def plain_weights(module: M) -> M:
    """Store weights that are computed in every call (weight norm, spectral norm, parametrizations), and return it.

    Nothing can be cut out of or rounded in a weight that is made anew from others.
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
    """Return whether a hook is one of torch's that compute a weight before each call."""
    return type(hook).__module__ in ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")


def copied_module(module: M, *, whose: str = "The model") -> M:
    """Return a deep copy of a module; activations that ``forward`` left on it are copied without their graph.

    Raises
    ------
    TaskError
        If it cannot be copied: the attribute that is in the way is named.
    """
    # a tensor with a graph refuses to be deep-copied: kept activations, and weights that weight_norm has computed
    kept = {id(tensor): tensor for part in module.modules() for tensor in _tensors(vars(part), depth=4)}
    memo: dict[int, Any] = {key: tensor.detach().clone() for key, tensor in kept.items() if tensor.grad_fn is not None}
    try:
        with warnings.catch_warnings():  # torch warns about a type of its own in captured graphs
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
            return copy.deepcopy(module, memo)
    except Exception as error:
        raise TaskError(
            f"{whose} cannot be copied: {type(error).__name__}: {error}. Keep locks, open files and generators out of "
            f"the module{_culprit(module)}."
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


def guard_inputs(module: M, inputs: Tree) -> M:
    """Return ``module``, which gets copies of its inputs from now on if it writes into them.

    Whether it does is found out by running a copy on ``inputs``.
    """
    return with_own_inputs(module) if writes_inputs(module, inputs) else module


def with_own_inputs(module: M) -> M:
    """Give a module copies of its inputs in every call, and return it.

    ``ReLU(inplace=True)`` as the first layer, or ``x -= mean``, would otherwise change the caller's data.
    """
    if not any(hook is _copy_inputs for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_copy_inputs, with_kwargs=True, prepend=True)
    return module


def writes_inputs(module: nn.Module, inputs: Tree) -> bool:
    """Return whether a call of ``module`` changes its inputs; False if it cannot be called with them."""
    given = tree_map(torch.clone, inputs)
    before = [leaf._version for leaf in leaves(given)]
    try:
        with torch.no_grad():
            call_model(copied_module(module), given)
    except Exception:  # noqa: BLE001 - whoever runs it next says what is wrong
        return False
    return any(leaf._version != version for leaf, version in zip(leaves(given), before, strict=True))


def _copy_inputs(_module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return tree_map(_cloned, args), tree_map(_cloned, kwargs)


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


@contextlib.contextmanager
def plain_outputs(module: nn.Module) -> Iterator[None]:
    """Let a module give tuples, lists and dicts of Python's own types for a while: only those can be written down."""
    handle = module.register_forward_hook(_plain)
    try:
        yield
    finally:
        handle.remove()


def _plain(_module: nn.Module, _args: Any, outputs: Any) -> Any:
    return plain_tree(outputs)


def with_output_form(module: M, form: Tree) -> M:
    """Let a module give its outputs in the structure of ``form``, whatever its leaves are, and return it."""
    if not _is_plain(form):
        module.register_forward_hook(_Formed(form))
    return module


def _is_plain(tree: Tree) -> bool:
    if isinstance(tree, Mapping):
        return type(tree) is dict and all(map(_is_plain, tree.values()))
    if isinstance(tree, tuple | list):
        return type(tree) in (tuple, list) and all(map(_is_plain, tree))
    return True


class _Formed:
    """A forward hook: gives named tuples and attributes back to outputs that a graph holds as plain ones."""

    def __init__(self, form: Tree) -> None:
        self._form = tree_map(lambda _: 0, form)

    def __call__(self, _module: nn.Module, _args: Any, outputs: Any) -> Tree:
        found = iter(leaves(outputs))
        return tree_map(lambda _: next(found), self._form)

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Formed:
        return self
