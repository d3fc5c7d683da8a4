"""Check a caller's inputs before the runtime is called. numpy only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import InputError
from workbench.export.io import IOSpec, TensorSpec

_INT32 = np.iinfo(np.int32)
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
        self._io, self._kind, self._names, self._note, self._finite = io, io.kind, io.input_names, note, finite
        self._no_nan = no_nan
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
            if self._finite:
                _check_finite(leaf, spec)
            elif self._no_nan and dtype.kind == "f" and leaf.size and (largest := leaf.item(leaf.argmax())) != largest:
                _refuse_nan(leaf, spec)  # argmax returns the first NaN, in a quarter of the time of max
            if self._narrow and dtype.kind in "iu" and dtype.itemsize == 8:
                _check_int32(leaf, spec)
            if spec.below is not None and dtype.kind in "iu" and leaf.size:
                _check_indices(leaf, spec, spec.below)
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


def _check_finite(leaf: np.ndarray[Any, Any], spec: TensorSpec) -> None:
    if leaf.dtype.kind != "f" or bool(np.isfinite(leaf).all()):
        return
    bad = ~np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)
    raise InputError(
        f"Input {spec.describe()} has NaN or infinity in {int(bad.sum())} of {len(leaf)} samples, first in sample "
        f"{int(bad.argmax())}. Fix the data, or set InferenceConfig.check_finite to False."
    )


def _refuse_nan(leaf: np.ndarray[Any, Any], spec: TensorSpec) -> None:
    bad = np.isnan(leaf.reshape(len(leaf), -1)).any(axis=1)
    raise InputError(
        f"Input {spec.describe()} has NaN in {int(bad.sum())} of {len(leaf)} samples, first in sample "
        f"{int(bad.argmax())}, which this engine would turn into finite outputs. Fix the data, or set "
        "InferenceConfig.check_finite to False."
    )


def _check_indices(leaf: np.ndarray[Any, Any], spec: TensorSpec, below: int) -> None:
    low, high = int(leaf.min()), int(leaf.max())
    if low < 0 or high >= below:
        raise InputError(
            f"Input {spec.describe()} indexes a table and must be in 0 to {below - 1}, got {low if low < 0 else high}."
        )


def _check_int32(leaf: np.ndarray[Any, Any], spec: TensorSpec) -> None:
    low, high = int(leaf.min()), int(leaf.max())
    if low < _INT32.min or high > _INT32.max:
        raise InputError(
            f"Input {spec.describe()} must be between {_INT32.min:,} and {_INT32.max:,}, because OpenVINO computes "
            f"integers in 32 bits, got {low if low < _INT32.min else high}. Use the backend onnxruntime."
        )


def to_torch(outputs: Arrays) -> list[Any]:
    """Return outputs as tensors that share their memory; the caller gave tensors, so torch is imported."""
    torch = sys.modules["torch"]
    return [torch.from_numpy(output) for output in outputs]


def _type_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
