"""Check the buffers that a caller gives for a model's outputs. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import InputError
from workbench.export.io import IOSpec, TensorSpec, tree_builder, tree_children


class OutputBinder:
    """Turns what a caller gives as ``out`` into flat arrays that a session writes into."""

    __slots__ = ("_build", "_flatten", "_io", "_specs")

    def __init__(self, io: IOSpec) -> None:
        self._io = io
        self._flatten = _flattener(io.output_tree)
        self._build = tree_builder(io.output_tree)
        self._specs = [(spec, np.dtype(spec.dtype), spec.shape) for spec in io.outputs]

    def new(self, size: int) -> Any:
        """Return buffers for ``size`` samples in the structure of the outputs.

        Raises
        ------
        InputError
            If the io description leaves a dimension of an output open.
        """
        return self._build([np.zeros(shape, dtype) for shape, dtype in self.shapes(size)])

    def shapes(self, size: int) -> list[tuple[tuple[int, ...], str]]:
        """Return shape and dtype of each output for ``size`` samples; raises as :meth:`new`."""
        found = []
        for spec, dtype, shape in self._specs:
            if None in shape:
                raise InputError(
                    f"Output {spec.describe()} has a shape that depends on the input: no buffer can be made for it "
                    "beforehand. Call predict without out."
                )
            found.append((_with_batch(map(int, shape), spec, size), dtype.name))  # type: ignore[arg-type]
        return found

    def bind(self, out: Any, size: int, inputs: Arrays) -> Arrays:
        """Return the arrays behind ``out``.

        Raises
        ------
        InputError
            If structure, dtype, shape or memory layout do not fit, or a buffer shares memory with an input.
        """
        leaves = self._flatten(out)
        if leaves is None or len(leaves) != len(self._specs):
            raise InputError(f"out must have the structure of the outputs, {self._describe(size)}.")
        arrays: Arrays = []
        for leaf, (spec, dtype, shape) in zip(leaves, self._specs, strict=True):
            array = leaf if type(leaf) is np.ndarray else _as_array(leaf, spec)
            if array.dtype != dtype or array.shape != _with_batch(shape, spec, size):
                self._refuse(array, spec, size)
            flags = array.flags
            if not (flags.c_contiguous and flags.writeable):
                raise InputError(f"out for {spec.name} must be contiguous and writable: np.empty gives such an array.")
            for given in inputs:
                if np.may_share_memory(array, given):
                    raise InputError(f"out for {spec.name} shares memory with an input. Give a buffer of its own.")
            arrays.append(array)
        return self._io.batch_first(arrays)

    def _refuse(self, array: Any, spec: TensorSpec, size: int) -> None:
        wanted = _with_batch(spec.shape, spec, size)
        fits = array.ndim == len(wanted) and all(
            want is None or want == got for want, got in zip(wanted, array.shape, strict=True)
        )
        if array.dtype == np.dtype(spec.dtype) and fits:
            return  # a dimension that the description leaves open
        raise InputError(
            f"out for {spec.describe()} is {array.dtype}{list(array.shape)}, and {size} samples need "
            f"{self._describe(size)}. engine.output_buffers({size}) makes it."
        )

    def _describe(self, size: int) -> str:
        return ", ".join(
            f"{spec.name} {spec.dtype}{['?' if n is None else n for n in _with_batch(spec.shape, spec, size)]}".replace(
                "'", ""
            )
            for spec in self._io.outputs
        )


def _with_batch(shape: Iterable[Any], spec: TensorSpec, size: int) -> tuple[Any, ...]:
    """Return the whole shape of an output for ``size`` samples, from that of one."""
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
    """Return a function that gives the leaves of a structure in order, None where the structure is another."""
    (kind,) = tree
    if kind == "leaf":
        return lambda out: [out]
    if kind == "none":
        return lambda out: []
    parts = [(key, _flattener(child)) for key, child in tree_children(tree)]
    form = Mapping if kind in ("dict", "attributes") else Sequence
    return lambda out: _joined(out, parts) if isinstance(out, form) and len(out) == len(parts) else None


def _joined(out: Any, members: Sequence[tuple[Any, Callable[[Any], list[Any] | None]]]) -> list[Any] | None:
    leaves: list[Any] = []
    for key, flatten in members:
        try:
            found = flatten(out[key])
        except KeyError:
            return None
        if found is None:
            return None
        leaves += found
    return leaves
