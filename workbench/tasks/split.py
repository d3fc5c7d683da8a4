"""Splits: samples in memory on the CPU, read from tensors, arrays, Datasets or DataLoaders."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, default_collate

from workbench.core.errors import TaskError
from workbench.tasks.trees import Tree, batch_size, concat, named_leaves, to_torch, tree_map

ROLES = ("train", "calibration", "validation", "evaluation")
TARGET_KEYS = ("targets", "target", "labels", "label")
_CHUNK = 1024


class Split:
    """Samples of one role, as CPU tensors ``[n, ...]``.

    float64 becomes float32 and integer targets become int64, the dtypes of torch's layers and losses. The tensors may
    share memory with the arrays that were passed: do not modify those afterwards.

    Parameters
    ----------
    inputs
        A tensor or array ``[n, ...]``, or a tuple or dict of them (dict: keywords of the model's ``forward``).
    targets
        The same, or ``None``.
    name
        The role, for error messages.

    Raises
    ------
    TaskError
        If an array is not numeric, or the lengths differ.

    Examples
    --------
    >>> split = Split(np.zeros((10, 3)), np.arange(10))
    >>> len(split), len(split.take([0, 2])), split.targets.dtype
    (10, 2, torch.int64)
    """

    def __init__(self, inputs: Tree, targets: Tree = None, *, name: str = "data") -> None:
        self.name = name
        x, y = _tensors(inputs, f"{name} inputs", is_target=False), _tensors(targets, f"{name} targets", is_target=True)
        self._size = _common_size(name, x, y)
        # inputs, targets and the rows of a view: one tuple, so that threads see a consistent state
        self._data: tuple[Tree, Tree, torch.Tensor | None] = (x, y, None)
        self._digest: str | None = None

    @classmethod
    def of(cls, source: Any, *, name: str = "data") -> Split:
        """Read a Split, ``(inputs, targets)``, inputs alone, a list of samples, a Dataset or a DataLoader.

        A sample or batch is ``(inputs, target)``, ``(input, input, ..., target)``, or a dict with the target under
        ``targets``, ``target``, ``labels`` or ``label`` and keywords of ``forward``. A shuffling DataLoader is read
        in the order of its dataset, so that the digest is the same in every process.
        """
        if isinstance(source, Split):
            return source
        if isinstance(source, DataLoader):
            return cls._joined([_parts(batch, name) for batch in _ordered(source, name)], name)
        if isinstance(source, Dataset):
            return cls._collated(_samples(source, name), name)
        if isinstance(source, list):
            return cls._collated(source, name)
        if isinstance(source, tuple):
            if len(source) != 2:
                several = " For several inputs write ((first, second), targets)." if len(source) > 2 else ""
                raise TaskError(f"{name}: expected (inputs, targets), got a tuple of {len(source)}.{several}")
            return cls(source[0], source[1], name=name)
        if isinstance(source, torch.Tensor | np.ndarray):
            return cls(source, None, name=name)
        if isinstance(source, Mapping):
            return cls(*_parts(source, name), name=name)
        raise TaskError(
            f"{name}: cannot read data from {type(source).__name__}. Give (inputs, targets) as tensors or numpy "
            "arrays, a list of samples, a torch Dataset or a DataLoader."
        )

    @classmethod
    def _joined(cls, batches: Sequence[tuple[Tree, Tree]], name: str) -> Split:
        if not batches:
            raise TaskError(f"{name} must hold at least one sample, got none.")
        try:
            tensors = [to_torch(part) for part in batches]
            return cls(concat([x for x, _ in tensors]), concat([y for _, y in tensors]), name=name)
        except (RuntimeError, TypeError, TaskError) as error:
            raise TaskError(
                f"{name}: the batches of the DataLoader have different shapes ({error}). Pad all samples to one shape "
                "in its collate_fn."
            ) from error

    @classmethod
    def _collated(cls, samples: Sequence[Any], name: str) -> Split:
        if not samples:
            raise TaskError(f"{name} must hold at least one sample, got none.")
        inputs, targets = zip(*(_parts(sample, name) for sample in samples), strict=True)
        without = sum(target is None for target in targets)
        if 0 < without < len(targets):
            raise TaskError(f"{name}: {without} of {len(targets)} samples have no target; give all or none.")
        try:
            joined = default_collate(list(inputs)), None if without else default_collate(list(targets))
        except (RuntimeError, TypeError, KeyError) as error:
            raise TaskError(
                f"{name}: the samples do not stack into one batch ({error}). Give samples of one shape, a DataLoader "
                "whose collate_fn pads them, or whole arrays as the tuple (inputs, targets)."
            ) from error
        # default_collate turns a tuple of parts into a list
        return cls(_tupled(joined[0]), _tupled(joined[1]), name=name)

    @property
    def inputs(self) -> Tree:
        """Tensors ``[n, ...]`` in the structure that was passed; a view is copied on first use."""
        return self._materialize()[0]

    @property
    def targets(self) -> Tree:
        """Tensors ``[n, ...]`` in the structure that was passed, or ``None``."""
        return self._materialize()[1]

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        shapes = ", ".join(f"{key or 'inputs'} {list(t.shape[1:])}" for key, t in named_leaves(self._data[0]))
        return f"Split({self.name}: {len(self)} samples, {shapes})"

    def take(self, indices: Sequence[int] | torch.Tensor | np.ndarray[Any, Any], *, name: str | None = None) -> Split:
        """Return the samples at ``indices``, in that order, as a view."""
        index = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= len(self)):
            raise TaskError(
                f"{self.name}: indices must be from 0 to {len(self) - 1}, got {int(index.min())} to {int(index.max())}."
            )
        view = object.__new__(type(self))
        view.name = name or self.name
        inputs, targets, rows = self._data
        view._data = (inputs, targets, index if rows is None else rows[index])
        view._size = len(index)
        view._digest = None
        return view

    def batches(self, size: int) -> Iterator[tuple[Tree, Tree]]:
        """Yield ``(inputs, targets)`` of ``size`` samples in order; the last may be smaller."""
        if size < 1:
            raise TaskError(f"The batch size must be at least 1, got {size}.")
        inputs, targets, rows = self._data
        for start in range(0, len(self), size):
            yield _rows(inputs, rows, start, start + size), _rows(targets, rows, start, start + size)

    @property
    def digest(self) -> str:
        """sha256 (hex) over names, dtypes, shapes and raw bytes of inputs and targets."""
        if self._digest is None:
            total = hashlib.sha256()
            inputs, targets, rows = self._data
            for role, tree in (("inputs", inputs), ("targets", targets)):
                for key, leaf in named_leaves(tree, role):
                    total.update(f"{key} {leaf.dtype} {len(self)} {list(leaf.shape[1:])}\n".encode())
                    for start in range(0, len(self), _CHUNK):
                        total.update(raw_bytes(_rows(leaf, rows, start, start + _CHUNK)))
            self._digest = total.hexdigest()
        return self._digest

    def _materialize(self) -> tuple[Tree, Tree]:
        inputs, targets, rows = self._data
        if rows is not None:
            inputs, targets = (_rows(tree, rows, 0, len(self)) for tree in (inputs, targets))
            self._data = (inputs, targets, None)
        return inputs, targets

    def __getstate__(self) -> dict[str, Any]:
        # without the samples that a view leaves out
        self._materialize()
        return self.__dict__


def _rows(tree: Tree, rows: torch.Tensor | None, start: int, stop: int) -> Tree:
    return tree_map(lambda leaf: leaf[start:stop] if rows is None else leaf[rows[start:stop]], tree)


def _tensors(tree: Tree, where: str, *, is_target: bool) -> Tree:
    def convert(leaf: Any) -> torch.Tensor:
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biuf":
            raise TaskError(f"{where} must be numeric, got an array of dtype {leaf.dtype}. Encode them as integers.")
        if not isinstance(leaf, torch.Tensor | np.ndarray | np.generic | int | float):
            raise TaskError(f"{where} must be tensors or numpy arrays, got {type(leaf).__name__}.")
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiu" and not leaf.dtype.isnative:
            leaf = leaf.astype(leaf.dtype.newbyteorder("="))
        tensor = cast(torch.Tensor, to_torch(leaf))
        if tensor.dtype == torch.float64:
            return tensor.float()
        whole = not tensor.dtype.is_floating_point and not tensor.dtype.is_complex and tensor.dtype != torch.bool
        return tensor.long() if is_target and whole else tensor

    return tree_map(convert, tree)


def _common_size(name: str, inputs: Tree, targets: Tree) -> int:
    try:
        size = batch_size(inputs)
        other = size if targets is None else batch_size(targets)
    except TaskError as error:
        raise TaskError(f"{name}: {error}") from error
    if size != other:
        raise TaskError(f"{name}: every input must have one target, got {size} inputs and {other} targets.")
    if size == 0:
        raise TaskError(f"{name} must hold at least one sample, got none.")
    return size


def _tupled(tree: Tree) -> Tree:
    if isinstance(tree, Mapping):
        return {key: _tupled(value) for key, value in tree.items()}
    return tuple(_tupled(value) for value in tree) if isinstance(tree, list | tuple) else tree


def _parts(sample: Any, name: str) -> tuple[Tree, Tree]:
    """Return (inputs, target) of one sample or batch."""
    if isinstance(sample, Mapping):
        keys = [key for key in TARGET_KEYS if key in sample]
        if len(keys) > 1:
            raise TaskError(f"{name}: a sample must have one target, got {', '.join(keys)}.")
        inputs = {key: value for key, value in sample.items() if key not in keys}
        return inputs, sample[keys[0]] if keys else None
    if isinstance(sample, tuple | list):
        if len(sample) < 2:
            return _tupled(sample[0]) if sample else None, None
        return _tupled(sample[0] if len(sample) == 2 else tuple(sample[:-1])), _tupled(sample[-1])
    return sample, None


def _samples(dataset: Dataset[Any], name: str) -> list[Any]:
    if isinstance(dataset, IterableDataset):
        return list(dataset)
    sized = cast(Any, dataset)
    try:
        count = len(sized)
    except TypeError as error:
        raise TaskError(f"{name}: the Dataset {type(dataset).__name__} must have __len__.") from error
    if count:
        _refuse_random(sized, name)
    return [sized[i] for i in range(count)]


def _refuse_random(dataset: Any, name: str) -> None:
    pairs = itertools.zip_longest(*(named_leaves(_parts(dataset[0], name)) for _ in range(2)))
    if not all(a and b and np.array_equal(np.asarray(a[1]), np.asarray(b[1])) for a, b in pairs):
        raise TaskError(
            f"{name}: the Dataset {type(dataset).__name__} must return the same values for an index each time. Move "
            "random augmentation to Task(augment=...)."
        )


def _ordered(loader: DataLoader[Any], name: str) -> Iterable[Any]:
    """Return all batches in dataset order, unless the loader has a custom sampler."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return loader
    _refuse_random(loader.dataset, name)
    if isinstance(loader.sampler, RandomSampler) and not loader.sampler.replacement:
        plain: DataLoader[Any] = DataLoader(
            loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn, num_workers=0
        )
        return plain
    return loader


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a CPU tensor in row-major order, without a copy if it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
