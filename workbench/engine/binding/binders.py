"""Check a caller's inputs, and a caller's buffers for outputs, before the runtime is called. numpy only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import InputError
from workbench.export.io import IOSpec, TensorSpec, tree_builder, tree_children

_INT32 = np.iinfo(np.int32)
_NARROW = "must be between {:,} and {:,}, because OpenVINO computes integers in 32 bits"
SAFE_CASTS = {("float64", "float32"), ("int32", "int64")}
"""Conversions with a note; every other dtype must match."""


class Binder:
    """Convert a caller's inputs to the flat, contiguous arrays of a session.

    ``note`` is called with a sentence if an input is converted. Refused are NaN and infinity with ``finite``, NaN with
    ``no_nan`` (for an engine that would hide it), int64 values beyond 32 bits with ``narrow``.
    """

    __slots__ = ("_finite", "_io", "_kind", "_names", "_narrow", "_no_nan", "_note", "_specs")

    def __init__(
        self,
        io: IOSpec,
        note: Callable[[str], None],
        *,
        finite: bool = False,
        no_nan: bool = False,
        narrow: bool = False,
    ) -> None:
        self._io, self._kind, self._names, self._note = io, io.kind, io.input_names, note
        self._finite, self._no_nan = finite, no_nan
        self._narrow = narrow and any(spec.dtype in ("int64", "uint64") for spec in io.inputs)
        self._specs = [(spec, np.dtype(spec.dtype), spec.shape) for spec in io.inputs]

    def bind(self, inputs: Any) -> tuple[Arrays, int, bool]:
        """Return the arrays, the number of samples, whether any is a torch tensor; raise InputError for a misfit."""
        leaves = (inputs,) if self._kind == "tensor" else self._unpack(inputs)
        arrays: Arrays = []
        has_tensors = False
        size = -1
        for leaf, (spec, dtype, shape) in zip(leaves, self._specs, strict=True):
            if type(leaf) is not np.ndarray:
                leaf, is_tensor = self._to_array(leaf, spec)
                has_tensors |= is_tensor
            if leaf.dtype != dtype:
                leaf = self._cast(leaf, spec)
            if leaf.ndim == 0 or leaf.shape[1:] != shape:
                self._check_shape(leaf, spec)
            if size < 0:
                size = leaf.shape[0]
            if leaf.shape[0] != size or size == 0:
                self._refuse_batch(arrays, leaf, spec)
            if dtype.kind == "f" and leaf.size:
                if self._finite and not np.isfinite(leaf).all():
                    raise _unusable(spec, "NaN or infinity", ~np.isfinite(leaf))
                # argmax returns the first NaN, in a quarter of the time of max.
                if self._no_nan and (largest := leaf.item(leaf.argmax())) != largest:
                    raise _unusable(spec, "NaN", np.isnan(leaf), ", which this engine would turn into finite outputs")
            elif dtype.kind in "iu" and leaf.size:
                if self._narrow and dtype.itemsize == 8:
                    _check_range(leaf, spec, (_INT32.min, _INT32.max), _NARROW, " Use the backend onnxruntime.")
                if spec.below is not None:
                    _check_range(leaf, spec, (0, spec.below - 1), "indexes a table and must be in {} to {}")
            arrays.append(leaf if leaf.flags.c_contiguous else np.ascontiguousarray(leaf))
        return arrays, size, has_tensors

    def _unpack(self, inputs: Any) -> list[Any]:
        if self._kind == "dict":
            if not isinstance(inputs, Mapping) or set(inputs) != set(self._names):
                raise self._wrong_structure(
                    f"a dict with {sorted(map(str, inputs))}" if isinstance(inputs, Mapping) else _type_of(inputs)
                )
            return [inputs[name] for name in self._names]
        if not isinstance(inputs, tuple | list) or len(inputs) != len(self._names):
            length = f" of {len(inputs)}" if isinstance(inputs, tuple | list) else ""
            raise self._wrong_structure(f"{_type_of(inputs)}{length}")
        return list(inputs)

    def _wrong_structure(self, given: str) -> InputError:
        return InputError(f"The model takes {self._io.describe_inputs()}, but it was given {given}.")

    def _to_array(self, leaf: Any, spec: TensorSpec) -> tuple[np.ndarray[Any, Any], bool]:
        if isinstance(leaf, np.ndarray):
            return np.asarray(leaf), False
        if hasattr(leaf, "detach") and hasattr(leaf, "numpy"):
            try:
                return leaf.detach().cpu().numpy(), True
            except TypeError as error:
                raise InputError(f"Input {spec.describe()} was given as {leaf.dtype}: convert it first.") from error
        if len(self._names) == 1:
            raise self._wrong_structure(_type_of(leaf))
        raise InputError(f"Input {spec.describe()} must be a numpy array or torch tensor, got {_type_of(leaf)}.")

    def _cast(self, leaf: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any]:
        if (str(leaf.dtype), spec.dtype) not in SAFE_CASTS:
            raise InputError(
                f"Input {spec.describe()} was given as {leaf.dtype}. Convert it first; only float64 to float32 and "
                "int32 to int64 are converted here."
            )
        self._note(f"Input {spec.name} was given as {leaf.dtype} and is converted to {spec.dtype} in every call.")
        with np.errstate(over="ignore"):
            cast = leaf.astype(spec.dtype)
        if cast.dtype.kind == "f" and np.isinf(cast).sum() > np.isinf(leaf).sum():
            largest = np.finfo(cast.dtype).max
            raise InputError(
                f"Input {spec.describe()} was given as {leaf.dtype} with values beyond {largest:.3g}, the largest "
                f"of {spec.dtype}. Scale the data."
            )
        return cast

    def _check_shape(self, leaf: np.ndarray[Any, Any], spec: TensorSpec) -> None:
        if leaf.ndim == len(spec.shape) + 1 and all(
            want is None or want == got for want, got in zip(spec.shape, leaf.shape[1:], strict=True)
        ):
            return
        hint = " The batch dimension is missing: give x[None] for one sample." if leaf.shape == spec.shape else ""
        raise InputError(f"Input {spec.describe()} was given with shape {list(leaf.shape)}.{hint}")

    def _refuse_batch(self, before: Arrays, leaf: np.ndarray[Any, Any], spec: TensorSpec) -> None:
        if leaf.shape[0] == 0:
            raise InputError(f"Input {spec.describe()} must have at least one sample, got shape {list(leaf.shape)}.")
        sizes = [*(array.shape[0] for array in before), leaf.shape[0]]
        listed = ", ".join(f"{name} has {n}" for name, n in zip(self._names, sizes, strict=False))
        raise InputError(f"All inputs must have the same number of samples, but {listed}.")


def _unusable(spec: TensorSpec, content: str, bad: np.ndarray[Any, Any], effect: str = "") -> InputError:
    samples = bad.reshape(len(bad), -1).any(axis=1)
    return InputError(
        f"Input {spec.describe()} has {content} in {int(samples.sum())} of {len(bad)} samples, first in sample "
        f"{int(samples.argmax())}{effect}. Fix the data, or set InferenceConfig.check_finite to False."
    )


def _check_range(
    leaf: np.ndarray[Any, Any], spec: TensorSpec, limits: tuple[int, int], requirement: str, advice: str = ""
) -> None:
    low, high = int(leaf.min()), int(leaf.max())
    if low < limits[0] or high > limits[1]:
        value = low if low < limits[0] else high
        raise InputError(f"Input {spec.describe()} {requirement.format(*limits)}, got {value}.{advice}")


def to_torch(outputs: Arrays) -> list[Any]:
    """Return outputs as tensors that share their memory; the caller gave tensors, so torch is imported."""
    torch = sys.modules["torch"]
    return [torch.from_numpy(output) for output in outputs]


def _type_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


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
        arrays = []
        for spec, dtype, shape in self._specs:
            if None in shape:
                raise InputError(
                    f"Output {spec.describe()} must have a fixed shape for a buffer, but it depends on the input. "
                    "Call predict without out."
                )
            arrays.append(np.zeros(_with_batch(shape, spec, size), dtype))
        return self._build(arrays)

    def bind(self, out: Any, size: int, inputs: Arrays) -> Arrays:
        """Return the arrays of ``out``; raise InputError for a misfit, or memory shared with an input."""
        try:
            leaves = self._flatten(out)
        except KeyError:
            raise InputError(f"out must have the structure of the outputs, {self._describe(size)}.") from None
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
        shapes = [_with_batch(spec.shape, spec, size) for spec in self._io.outputs]
        dims = [", ".join("?" if n is None else str(n) for n in shape) for shape in shapes]
        return ", ".join(f"{s.name} {s.dtype}[{d}]" for s, d in zip(self._io.outputs, dims, strict=True))


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


def _flattener(tree: Mapping[str, Any]) -> Callable[[Any], list[Any]]:
    """Return a function that returns the leaves of a structure in order, and raises KeyError for another structure."""
    (kind,) = tree
    if kind == "leaf":
        return lambda out: [out]
    if kind == "none":
        return lambda out: []
    parts = [(key, _flattener(child)) for key, child in tree_children(tree)]
    form = Mapping if kind in ("dict", "attributes") else Sequence

    def flatten(out: Any) -> list[Any]:
        if not isinstance(out, form) or len(out) != len(parts):
            raise KeyError
        return [leaf for key, flatten_member in parts for leaf in flatten_member(out[key])]

    return flatten
