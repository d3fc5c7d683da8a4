"""Nested arrays (pytrees): one array, or tuples, lists and dicts of them. Torch is imported for torch tensors only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.core.errors import TaskError

Tree = Any
"""A tensor, a numpy array, None, or a tuple, list or dict of trees."""


class AttributeDict(dict[str, Any]):
    """Dict with attribute access, as in the outputs of transformers: ``outputs.logits``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            keys = ", ".join(map(repr, self)) or "none"
            raise AttributeError(f"Key {name!r} does not exist. Keys: {keys}.") from None


def tree_map(fn: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return the same structure with ``fn`` applied to every array.

    Dicts, tuples (also named ones), lists and ``None`` keep their type; other mappings become :class:`AttributeDict`.
    """
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        made = {key: tree_map(fn, value) for key, value in tree.items()}
        return made if type(tree) is dict else AttributeDict(made)
    if isinstance(tree, tuple | list):
        items = [tree_map(fn, value) for value in tree]
        if hasattr(tree, "_make"):
            return tree._make(items)
        return tuple(items) if isinstance(tree, tuple) else items
    return fn(tree)


def to_builtins(tree: Tree) -> Tree:
    """Return the same arrays in builtin tuples, lists and dicts."""
    if isinstance(tree, Mapping):
        return {key: to_builtins(value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return (tuple if isinstance(tree, tuple) else list)(to_builtins(value) for value in tree)
    return tree


def named_leaves(tree: Tree, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(path, array)`` for every array, depth first; a lone array has the path ``name``."""
    if tree is None:
        return
    items: Any
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, tuple | list):
        items = enumerate(tree)
    else:
        yield name, tree
        return
    for key, value in items:
        yield from named_leaves(value, f"{name}.{key}" if name else str(key))


def leaves(tree: Tree) -> list[Any]:
    """Return every array of the tree, depth first."""
    return [leaf for _, leaf in named_leaves(tree)]


def batch_size(tree: Tree) -> int:
    """Return the common length of the first dimension; TaskError if lengths differ or an array has no dimension."""
    sizes = {name or "the array": _length(name, leaf) for name, leaf in named_leaves(tree)}
    if not sizes:
        raise TaskError("A batch needs at least one tensor or numpy array, got none.")
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise TaskError(f"All arrays must have the same first dimension, the number of samples, but {lengths}.")
    return next(iter(sizes.values()))


def _length(name: str, leaf: Any) -> int:
    shape = getattr(leaf, "shape", None)
    if shape is None:
        raise TaskError(f"Expected a tensor or numpy array{f' at {name}' if name else ''}, got {type(leaf).__name__}.")
    if len(shape) == 0:
        raise TaskError(f"The array{f' at {name}' if name else ''} must have the shape [n, ...], got a scalar.")
    return int(shape[0])


def slice_batch(tree: Tree, start: int, stop: int) -> Tree:
    """Return the samples from ``start`` to ``stop`` (exclusive) of every array, as views."""
    return tree_map(lambda leaf: leaf[start:stop], tree)


def concat(trees: Sequence[Tree]) -> Tree:
    """Concatenate batches along the first dimension; TaskError if the structures differ."""
    if not trees:
        raise TaskError("Concatenation needs at least one batch, got none.")
    first = trees[0]
    if len(trees) == 1:
        return first
    if first is None:
        return None
    if isinstance(first, Mapping):
        if any(not isinstance(t, Mapping) or t.keys() != first.keys() for t in trees):
            raise TaskError(f"Batches differ in their keys; the first has {', '.join(map(str, first))}.")
        made = {key: concat([t[key] for t in trees]) for key in first}
        return made if type(first) is dict else AttributeDict(made)
    if isinstance(first, tuple | list):
        if any(not isinstance(t, tuple | list) or len(t) != len(first) for t in trees):
            raise TaskError(f"Batches differ in their number of parts; the first has {len(first)}.")
        items = [concat([t[i] for t in trees]) for i in range(len(first))]
        return type(first)._make(items) if hasattr(first, "_make") else type(first)(items)
    if isinstance(first, np.ndarray):
        return np.concatenate(trees)
    import torch

    return torch.cat(list(trees))


def to_numpy(tree: Tree) -> Tree:
    """Return numpy arrays: CPU tensors share memory, bfloat16 becomes float32."""
    return tree_map(_array, tree)


def _array(leaf: Any) -> np.ndarray[Any, Any]:
    if not hasattr(leaf, "detach"):
        return np.asarray(leaf)
    tensor = leaf.detach().cpu()
    return np.asarray((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())


def to_torch(tree: Tree) -> Tree:
    """Return CPU tensors: writable, contiguous numpy arrays share memory."""
    import torch

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().cpu()
        array = np.ascontiguousarray(leaf) if np.ndim(leaf) else np.asarray(leaf)
        # writing through a tensor into read-only memory is undefined
        return torch.from_numpy(array if array.flags.writeable else array.copy())

    return tree_map(convert, tree)


def call_model(module: Callable[..., Any], inputs: Tree) -> Tree:
    """Call a module with a tensor as its argument, a tuple as positional, or a dict as keyword arguments."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, tuple | list):
        return module(*inputs)
    return module(inputs)
