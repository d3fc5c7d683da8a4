"""Join inputs into batches of the configured size, split the outputs, and measure the calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.engine.binding.buffers import BufferPool


class InferenceMetrics(NamedTuple):
    """Times of one call in milliseconds, and its place.

    ``queue_ms`` is the wait while other threads use the engine; ``copy_ms`` is checking, converting and copying inputs
    and outputs; ``compute_ms`` is time inside the runtime; ``total_ms`` is the whole call. ``batch_size`` is the number
    of samples. ``peak_memory_mib`` is the most device memory since loading, by torch's allocator on a GPU; None
    elsewhere.
    """

    queue_ms: float
    copy_ms: float
    compute_ms: float
    total_ms: float
    batch_size: int
    device: str
    backend: str
    peak_memory_mib: float | None = None

    @property
    def inference_time_ms(self) -> float:
        """Time inside the runtime, equal to ``compute_ms``."""
        return self.compute_ms


def metrics_of(
    queued: float, computed: float, total: float, size: int, device: str, backend: str, peak_mib: float | None = None
) -> InferenceMetrics:
    """Return the metrics of a call from times in seconds; the rest of ``total`` is copying."""
    copied = total - queued - computed
    return InferenceMetrics(queued * 1e3, copied * 1e3, computed * 1e3, total * 1e3, size, device, backend, peak_mib)


class InferenceResult(NamedTuple):
    """Outputs in the eager model's structure (arrays owned by the caller), and the metrics of the call."""

    result: Any
    metrics: InferenceMetrics


class BoundInputs(NamedTuple):
    """Checked inputs: flat arrays, number of samples, whether they were torch tensors, and time of the request."""

    arrays: Arrays
    size: int
    as_torch: bool
    requested: float

    def copy(self) -> BoundInputs:
        """Return inputs that share no memory with the caller's."""
        return self._replace(arrays=[array.copy() for array in self.arrays])


class RuntimeCall(NamedTuple):
    """Begin and end of one call of the runtime, and its seconds of copying; waiting for the device is not included."""

    begun: float
    ended: float
    copied: float


ItemOutputs = tuple[Arrays, list[RuntimeCall]]
"""Outputs of one item, and the calls that carried its samples."""


def pad(arrays: Arrays, size: int) -> Arrays:
    """Repeat the last sample until there are ``size``."""
    return [np.concatenate([a, np.repeat(a[-1:], size - a.shape[0], axis=0)]) for a in arrays]


def by_shape(items: Sequence[Arrays]) -> list[list[int]]:
    """Group the positions of items by the shape of a sample."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for position, arrays in enumerate(items):
        groups.setdefault(tuple(array.shape[1:] for array in arrays), []).append(position)
    return list(groups.values())


def run_in_batches(
    items: Sequence[Arrays],
    batch: int,
    *,
    fixed: bool,
    calls: Callable[[Iterable[Arrays]], Iterable[tuple[Arrays, RuntimeCall]]],
    pool: BufferPool,
) -> list[ItemOutputs]:
    """Run the samples of all items, which have one shape, in calls of ``batch`` samples.

    The last call is smaller, or padded for a ``fixed`` batch. Items are joined in buffers of ``pool``; ``calls`` runs
    batches in order.
    """
    joined, lent = join_inputs(items, pool)
    total = joined[0].shape[0]
    counts = [min(batch, total - start) for start in range(0, total, batch)]
    parts: list[Arrays] = []
    runs: list[RuntimeCall] = []
    try:
        for count, (outputs, run) in zip(counts, calls(_batches(joined, batch, fixed=fixed)), strict=True):
            runs.append(run)
            parts.append(trim(outputs, count))
    finally:
        for array in lent:
            pool.give(array)
    outputs = parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return split_outputs(items, outputs, runs, batch)


def _batches(joined: Arrays, batch: int, *, fixed: bool) -> Iterator[Arrays]:
    total = joined[0].shape[0]
    for start in range(0, total, batch):
        inputs = joined if batch >= total else [array[start : start + batch] for array in joined]
        yield pad(inputs, batch) if fixed and inputs[0].shape[0] < batch else inputs


def timed_call(call: Callable[[Arrays], tuple[Arrays, float]], inputs: Arrays) -> tuple[Arrays, RuntimeCall]:
    """Run one batch by ``call``, which returns outputs and seconds of copying."""
    begun = time.perf_counter()
    outputs, copied = call(inputs)
    return outputs, RuntimeCall(begun, time.perf_counter(), copied)


def trim(outputs: Arrays, count: int) -> Arrays:
    """Return the outputs of the first ``count`` samples."""
    return outputs if outputs[0].shape[0] == count else [output[:count] for output in outputs]


def join_inputs(items: Sequence[Arrays], pool: BufferPool) -> tuple[Arrays, Arrays]:
    """Concatenate the samples of all items; also return the buffers that go back to the pool."""
    if len(items) == 1:
        return items[0], []
    lent: Arrays = []
    for parts in zip(*items, strict=True):
        total = sum(part.shape[0] for part in parts)
        buffer = pool.take((total, *parts[0].shape[1:]), parts[0].dtype.name)
        lent.append(buffer)
        np.concatenate(parts, out=buffer)
    return list(lent), lent


def split_outputs(items: Sequence[Arrays], outputs: Arrays, runs: list[RuntimeCall], batch: int) -> list[ItemOutputs]:
    """Return the outputs of each item, and the calls of ``batch`` samples that carried it."""
    if len(items) == 1:
        return [(outputs, runs)]
    results = []
    start = 0
    for item in items:
        stop = start + item[0].shape[0]
        own = [output[start:stop].copy() for output in outputs]
        results.append((own, runs if len(runs) == 1 else runs[start // batch : (stop - 1) // batch + 1]))
        start = stop
    return results
