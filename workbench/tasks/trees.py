"""Nested tensors: one array, or tuples, lists and dicts of them.

Nothing here needs torch unless a torch tensor is asked for, so that engines without torch can use it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.core.errors import TaskError

Tree = Any
"""A tensor or numpy array, or a tuple, list or dict of trees; ``None`` stands for nothing."""


class AttributeDict(dict[str, Any]):
    """A dict whose entries are attributes too, as in the outputs of transformers: ``outputs.logits``.

    Examples
    --------
    >>> AttributeDict(logits=3).logits
    3
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"There is no {name!r}; there is {', '.join(map(repr, self)) or 'nothing'}.") from None


def tree_map(fn: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return the same structure with ``fn`` applied to every array.

    A dict stays one, any other mapping becomes an :class:`AttributeDict`; tuples (named ones too) and lists keep their
    type; ``None`` stays.

    Examples
    --------
    >>> tree_map(lambda x: x + 1, {"a": (1, 2)})
    {'a': (2, 3)}
    """
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        made = {key: tree_map(fn, value) for key, value in tree.items()}
        return made if type(tree) is dict else AttributeDict(made)
    if isinstance(tree, tuple):
        items = [tree_map(fn, value) for value in tree]
        return type(tree)._make(items) if hasattr(tree, "_make") else tuple(items)
    if isinstance(tree, list):
        return [tree_map(fn, value) for value in tree]
    return fn(tree)


def plain_tree(tree: Tree) -> Tree:
    """Return the same arrays in tuples, lists and dicts of Python's own types.

    Examples
    --------
    >>> plain_tree(AttributeDict(a=(1, 2)))
    {'a': (1, 2)}
    """
    if isinstance(tree, Mapping):
        return {key: plain_tree(value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return (tuple if isinstance(tree, tuple) else list)(plain_tree(value) for value in tree)
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
    """Return the length of the leading dimension that all arrays share.

    Raises
    ------
    TaskError
        If there is no array, one has no dimension, or the lengths differ.
    """
    sizes = {name or "the array": _length(name, leaf) for name, leaf in named_leaves(tree)}
    if not sizes:
        raise TaskError("There is no array to take the batch size from; give at least one tensor or numpy array.")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise TaskError(f"All arrays must hold the same number of samples in their first dimension, but {listed}.")
    return next(iter(sizes.values()))


def _length(name: str, leaf: Any) -> int:
    shape = getattr(leaf, "shape", None)
    if shape is None:
        raise TaskError(f"Expected a tensor or numpy array{f' at {name}' if name else ''}, got {type(leaf).__name__}.")
    if len(shape) == 0:
        raise TaskError(f"The array{f' at {name}' if name else ''} has no batch dimension; its shape must be [n, ...].")
    return int(shape[0])


def slice_batch(tree: Tree, start: int, stop: int) -> Tree:
    """Return samples ``start`` to ``stop`` (not included) of every array, as views."""
    return tree_map(lambda leaf: leaf[start:stop], tree)


def concat(trees: Sequence[Tree]) -> Tree:
    """Join batches of one structure along the leading dimension.

    Raises
    ------
    TaskError
        If there is nothing to join or the structures differ.
    """
    if not trees:
        raise TaskError("There are no batches to join.")
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
        if hasattr(first, "_make"):
            return type(first)._make(items)
        return type(first)(items)
    return _concat_arrays(trees)


def _concat_arrays(arrays: Sequence[Any]) -> Any:
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    import torch

    return torch.cat(list(arrays))


def to_numpy(tree: Tree) -> Tree:
    """Return numpy arrays; CPU tensors share their memory, bfloat16 (which numpy lacks) becomes float32."""
    return tree_map(_array, tree)


def _array(leaf: Any) -> np.ndarray[Any, Any]:
    if not hasattr(leaf, "detach"):
        return np.asarray(leaf)
    tensor = leaf.detach().cpu()
    return np.asarray((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())


def to_torch(tree: Tree) -> Tree:
    """Return CPU tensors; writable, contiguous numpy arrays share their memory."""
    import torch

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().cpu()
        array = np.ascontiguousarray(leaf) if np.ndim(leaf) else np.asarray(leaf)
        # torch warns about memory that it must not write to, and a later write would be undefined
        return torch.from_numpy(array if array.flags.writeable else array.copy())

    return tree_map(convert, tree)


def call_model(module: Callable[..., Any], inputs: Tree) -> Tree:
    """Call a module the way its inputs say: a tensor as the argument, a tuple as several, a dict as keywords."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, tuple | list):
        return module(*inputs)
    return module(inputs)
