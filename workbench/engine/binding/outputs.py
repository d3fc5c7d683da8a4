"""Check a caller's buffers for outputs. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import InputError
from workbench.export.io import IOSpec, TensorSpec, tree_builder, tree_children


class OutputBinder:
    """Convert a caller's ``out`` to the flat arrays that a session writes into."""

    __slots__ = ("_build", "_flatten", "_io", "_specs")

    def __init__(self, io: IOSpec) -> None:
        self._io = io
        self._flatten = _flattener(io.output_tree)
        self._build = tree_builder(io.output_tree)
        self._specs = [(spec, np.dtype(spec.dtype), spec.shape) for spec in io.outputs]

    def new(self, size: int) -> Any:
        """Return buffers for ``size`` samples in the structure of the outputs; raise InputError for open shapes."""
        return self._build([np.zeros(shape, dtype) for shape, dtype in self.shapes(size)])

    def shapes(self, size: int) -> list[tuple[tuple[int, ...], str]]:
        """Return shape and dtype of each output for ``size`` samples; raise InputError for open shapes."""
        shapes = []
        for spec, dtype, shape in self._specs:
            if None in shape:
                raise InputError(
                    f"Output {spec.describe()} must have a fixed shape for a buffer, but it depends on the input. "
                    "Call predict without out."
                )
            shapes.append((_with_batch(map(int, shape), spec, size), dtype.name))  # type: ignore[arg-type]
        return shapes

    def bind(self, out: Any, size: int, inputs: Arrays) -> Arrays:
        """Return the arrays of ``out``; raise InputError for a misfit, or memory shared with an input."""
        leaves = self._flatten(out)
        if leaves is None or len(leaves) != len(self._specs):
            raise InputError(f"out must have the structure of the outputs, {self._describe(size)}.")
        arrays: Arrays = []
        for leaf, (spec, dtype, shape) in zip(leaves, self._specs, strict=True):
            array = leaf if type(leaf) is np.ndarray else _as_array(leaf, spec)
            if array.dtype != dtype or array.shape != _with_batch(shape, spec, size):
                self._check_open_shape(array, spec, size)
            if not (array.flags.c_contiguous and array.flags.writeable):
                raise InputError(f"out for {spec.name} must be contiguous and writable. Use np.empty.")
            if any(np.may_share_memory(array, given) for given in inputs):
                raise InputError(f"out for {spec.name} shares memory with an input. Give a buffer of its own.")
            arrays.append(array)
        return self._io.batch_first(arrays)

    def _check_open_shape(self, array: Any, spec: TensorSpec, size: int) -> None:
        expected = _with_batch(spec.shape, spec, size)
        fits = array.ndim == len(expected) and all(
            want is None or want == got for want, got in zip(expected, array.shape, strict=True)
        )
        if array.dtype != np.dtype(spec.dtype) or not fits:
            raise InputError(
                f"out for {spec.describe()} must be {self._describe(size)} for {size} samples, got "
                f"{array.dtype}{list(array.shape)}. Use engine.output_buffers({size})."
            )

    def _describe(self, size: int) -> str:
        return ", ".join(
            f"{spec.name} {spec.dtype}{['?' if n is None else n for n in _with_batch(spec.shape, spec, size)]}".replace(
                "'", ""
            )
            for spec in self._io.outputs
        )


def _with_batch(shape: Iterable[Any], spec: TensorSpec, size: int) -> tuple[Any, ...]:
    """Return the shape of an output for ``size`` samples, from the shape of one sample."""
    dims = list(shape)
    if spec.batch_dim is not None:
        dims.insert(spec.batch_dim, size)
    return tuple(dims)


def _as_array(leaf: Any, spec: TensorSpec) -> Any:
    if isinstance(leaf, np.ndarray):
        return np.asarray(leaf)
    if hasattr(leaf, "detach") and getattr(getattr(leaf, "device", None), "type", None) == "cpu":
        return leaf.detach().numpy()
    raise InputError(
        f"out for {spec.name} must be a numpy array or a torch tensor on the CPU, got {type(leaf).__name__}."
    )


def _flattener(tree: Mapping[str, Any]) -> Callable[[Any], list[Any] | None]:
    """Return a function that returns the leaves of a structure in order, None for another structure."""
    (kind,) = tree
    if kind == "leaf":
        return lambda out: [out]
    if kind == "none":
        return lambda out: []
    parts = [(key, _flattener(child)) for key, child in tree_children(tree)]
    form = Mapping if kind in ("dict", "attributes") else Sequence
    return lambda out: _flatten_members(out, parts) if isinstance(out, form) and len(out) == len(parts) else None


def _flatten_members(out: Any, members: Sequence[tuple[Any, Callable[[Any], list[Any] | None]]]) -> list[Any] | None:
    leaves: list[Any] = []
    for key, flatten in members:
        try:
            member = flatten(out[key])
        except KeyError:
            return None
        if member is None:
            return None
        leaves += member
    return leaves
