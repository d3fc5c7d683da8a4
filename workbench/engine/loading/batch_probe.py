"""Find out how a model file treats its batch, by a few calls on random inputs. numpy only.

The result decides whether samples of different callers may share a call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from workbench.artifact.reference import Arrays, Reference
from workbench.export.io import IOSpec

RunModel = Callable[[Arrays], Arrays]
_SAMPLES = 3
_INTEGER_LIMITS = (2**31 - 1, 50_000, 1000, 100, 10, 2, 1)
"""Integers are drawn below the first of these that the model accepts: most are indices into a table."""
_TOLERANCE = 1e-3
_MIXES = "a sample's outputs depend on the other samples of its batch"


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """The io description with the batch dimension of each output, and a batch with its outputs.

    ``unbatchable`` is the reason why samples of different callers must not share a call, None if they may.
    """

    io: IOSpec
    reference: Reference
    unbatchable: str | None


def probe_batch(run: RunModel, io: IOSpec, *, inputs: Arrays | None = None) -> ProbeResult:
    """Run a model on random inputs, or on the given flat ones, with samples repeated or dropped to fit the batch size.

    ``run`` maps flat inputs to flat outputs; its error is raised if it fails on all inputs. Without ``inputs`` only the
    batch of ``io`` may be open.
    """
    size = io.batch or _SAMPLES
    if inputs is None:
        inputs, outputs = _first_accepted(run, io, size)
    else:
        index = np.arange(size) % len(inputs[0])
        inputs = [np.ascontiguousarray(array[index]) for array in inputs]
        outputs = run(inputs)
    if io.batch is not None:
        # A fixed batch leaves no other test of a dimension than its length.
        axes = [output.shape.index(size) if size in output.shape else None for output in outputs]
        unbatchable = _mixes(run, inputs, outputs, axes, fixed=True) if size > 1 else None
    else:
        shorter = run([array[:-1] for array in inputs])
        axes = [_open_axis(output, less, size) for output, less in zip(outputs, shorter, strict=True)]
        unbatchable = _mixes(run, inputs, outputs, axes, fixed=False)
    specs = tuple(
        dataclasses.replace(spec, shape=_sample_shape(tuple(output.shape), axis, spec.shape), batch_dim=axis)
        for spec, output, axis in zip(io.outputs, outputs, axes, strict=True)
    )
    whole = [spec.name for spec, axis in zip(specs, axes, strict=True) if axis is None]
    if whole and unbatchable is None:
        unbatchable = f"the output {', '.join(map(repr, whole))} is one for the whole batch"
    io = dataclasses.replace(io, outputs=specs)
    return ProbeResult(io, Reference(inputs, io.batch_first(outputs)), unbatchable)


def _first_accepted(run: RunModel, io: IOSpec, size: int) -> tuple[Arrays, Arrays]:
    has_integers = any(np.dtype(spec.dtype).kind in "iu" for spec in io.inputs)
    problem: Exception | None = None
    for below in _INTEGER_LIMITS if has_integers else _INTEGER_LIMITS[-1:]:
        inputs = random_inputs(io, size, below=below)
        try:
            return inputs, run(inputs)
        except Exception as error:  # noqa: BLE001 - runtimes have no common error class
            problem = problem or error
    raise problem or ValueError("There is nothing to run.")


def random_inputs(io: IOSpec, size: int, *, below: int) -> Arrays:
    """Return inputs of ``size`` samples: normal floats, and integers from 0 to ``below - 1``."""
    generator = np.random.default_rng(0)
    return [_random(generator, (size, *(dim or 1 for dim in spec.shape)), spec.dtype, below) for spec in io.inputs]


def _random(generator: np.random.Generator, shape: tuple[int, ...], dtype: str, below: int) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind in "fc":
        return generator.standard_normal(shape).astype(kind)
    if kind.kind == "b":
        return generator.random(shape) < 0.5
    top = min(below, int(np.iinfo(kind).max))
    return generator.integers(0, max(1, top), shape, dtype=np.int64).astype(kind)


def _open_axis(output: np.ndarray, shorter: np.ndarray, size: int) -> int | None:
    """Return the dimension that grew with the batch."""
    if output.ndim != shorter.ndim:
        return None
    grown = [axis for axis in range(output.ndim) if (output.shape[axis], shorter.shape[axis]) == (size, size - 1)]
    return grown[0] if len(grown) == 1 or (grown and grown[0] == 0) else None


def _sample_shape(shape: tuple[int, ...], axis: int | None, declared: tuple[int | None, ...]) -> tuple[int | None, ...]:
    if axis == 0:
        return declared
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _mixes(run: RunModel, inputs: Arrays, outputs: Arrays, axes: Sequence[int | None], *, fixed: bool) -> str | None:
    """Run each sample alone, because a sample may depend on the first one only; in a fixed batch among zeros."""
    size = len(inputs[0])
    for index in (0, size - 1) if fixed else range(size):
        alone = run([_only(array, index) if fixed else array[index : index + 1] for array in inputs])
        for output, other, axis in zip(outputs, alone, axes, strict=True):
            if axis is not None:
                single = np.take(other, [index], axis) if fixed else other
                if not _close(np.take(output, [index], axis), single):
                    return _MIXES
    return None


def _only(array: np.ndarray, index: int) -> np.ndarray:
    alone = np.zeros_like(array)
    alone[index] = array[index]
    return alone


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    scale = float(np.nanmax(np.abs(one), initial=0.0)) or 1.0
    return bool(np.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True))
