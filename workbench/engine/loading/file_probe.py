"""Find out how a model file treats its batch by a few calls with made-up inputs: it has no torch to ask. numpy only.

Which dimension of each output follows the batch, and whether a sample's outputs depend on its neighbors, decides
whether samples of different callers may share a call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from workbench.artifact.reference import Arrays, Reference
from workbench.export.io import IOSpec

Run = Callable[[Arrays], Arrays]
_SAMPLES = 3
_LARGEST = (2**31 - 1, 50_000, 1000, 100, 10, 2, 1)
"""Integers are drawn below the first of these with which the model runs: most are indices into a table."""
_TOLERANCE = 1e-3
_MIXES = "a sample's outputs depend on the other samples of its batch"


@dataclasses.dataclass(frozen=True)
class Probed:
    """What was found: the io description with the batch dimension of each output, and a batch with its outputs.

    ``apart`` says why samples of different callers must not share a call, None if they may.
    """

    io: IOSpec
    reference: Reference
    apart: str | None


def probe(run: Run, io: IOSpec, *, inputs: Arrays | None = None) -> Probed:
    """Run a model with made-up inputs, or with those given.

    Parameters
    ----------
    run : callable
        Takes flat inputs and gives flat outputs; raises whatever the runtime raises.
    io : IOSpec
        What the file declares; no dimension but the batch may be open, unless inputs are given.
    inputs : list of arrays, optional
        Flat inputs; samples are repeated or left out where another number of them is needed.

    Raises
    ------
    Exception
        What ``run`` raised for all inputs.
    """
    size = io.batch or _SAMPLES
    if inputs is None:
        inputs, outputs = _first_that_runs(run, io, size)
    else:
        index = np.arange(size) % len(inputs[0])
        inputs = [np.ascontiguousarray(array[index]) for array in inputs]
        outputs = run(inputs)
    if io.batch is not None:
        axes = [_fixed_axis(output, size) for output in outputs]
        apart = _depends_fixed(run, inputs, outputs, axes) if size > 1 else None
    else:
        fewer = run([array[:-1] for array in inputs])
        axes = [_open_axis(output, less, size) for output, less in zip(outputs, fewer, strict=True)]
        apart = _depends(run, inputs, outputs, axes)
    specs = tuple(
        dataclasses.replace(spec, shape=_without(tuple(output.shape), axis, spec.shape), batch_dim=axis)
        for spec, output, axis in zip(io.outputs, outputs, axes, strict=True)
    )
    names = [spec.name for spec, axis in zip(specs, axes, strict=True) if axis is None]
    if names and apart is None:
        apart = f"the output {', '.join(map(repr, names))} is one for the whole batch"
    io = dataclasses.replace(io, outputs=specs)
    return Probed(io, Reference(inputs, io.batch_first(outputs)), apart)


def _first_that_runs(run: Run, io: IOSpec, size: int) -> tuple[Arrays, Arrays]:
    has_integers = any(np.dtype(spec.dtype).kind in "iu" for spec in io.inputs)
    problem: Exception | None = None
    for below in _LARGEST if has_integers else _LARGEST[-1:]:
        inputs = made_up(io, size, below=below)
        try:
            return inputs, run(inputs)
        except Exception as error:  # noqa: BLE001 - runtimes have no common class; the last one is raised
            problem = problem or error
    raise problem or ValueError("there is nothing to run")


def made_up(io: IOSpec, size: int, *, below: int) -> Arrays:
    """Return inputs of ``size`` samples: normal numbers, and integers from 0 to ``below - 1`` spread over the range."""
    generator = np.random.default_rng(0)
    return [_drawn(generator, (size, *(dim or 1 for dim in spec.shape)), spec.dtype, below) for spec in io.inputs]


def _drawn(generator: np.random.Generator, shape: tuple[int, ...], dtype: str, below: int) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind in "fc":
        return generator.standard_normal(shape).astype(kind)
    if kind.kind == "b":
        return generator.random(shape) < 0.5
    top = min(below, int(np.iinfo(kind).max))
    return generator.integers(0, max(1, top), shape, dtype=np.int64).astype(kind)


def _open_axis(output: np.ndarray, less: np.ndarray, size: int) -> int | None:
    """Return the dimension that grew with the batch."""
    if output.ndim != less.ndim:
        return None
    grown = [axis for axis in range(output.ndim) if (output.shape[axis], less.shape[axis]) == (size, size - 1)]
    return grown[0] if len(grown) == 1 or (grown and grown[0] == 0) else None


def _fixed_axis(output: np.ndarray, size: int) -> int | None:
    """Return the first dimension of the size of the batch: no other batch can be tried."""
    return next((axis for axis, length in enumerate(output.shape) if length == size), None)


def _without(shape: tuple[int, ...], axis: int | None, declared: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return the shape of one sample; None stays where the file leaves a dimension open that did not move."""
    if axis == 0:
        return declared
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _depends(run: Run, inputs: Arrays, outputs: Arrays, axes: Sequence[int | None]) -> str | None:
    """Run each sample alone: one may depend on the first only."""
    for place in range(len(inputs[0])):
        alone = run([array[place : place + 1] for array in inputs])
        for output, one, axis in zip(outputs, alone, axes, strict=True):
            if axis is not None and not _close(np.take(output, [place], axis), one):
                return _MIXES
    return None


def _depends_fixed(run: Run, inputs: Arrays, outputs: Arrays, axes: Sequence[int | None]) -> str | None:
    """Change all samples but one, the first and then the last: others may depend on the first only."""
    for place in (0, len(inputs[0]) - 1):
        changed = run([_only(array, place) for array in inputs])
        for output, other, axis in zip(outputs, changed, axes, strict=True):
            if axis is not None and not _close(np.take(output, [place], axis), np.take(other, [place], axis)):
                return _MIXES
    return None


def _only(array: np.ndarray, place: int) -> np.ndarray:
    alone = np.zeros_like(array)
    alone[place] = array[place]
    return alone


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    scale = float(np.nanmax(np.abs(one), initial=0.0)) or 1.0
    return bool(np.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True))
