"""Many small inputs in few calls: join them, run them in batches of the configured size, and split the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.engine.calls.buffers import BufferPool


class Bound(NamedTuple):
    """Checked inputs: flat arrays, samples, whether torch tensors were given, and when they were asked for."""

    arrays: Arrays
    size: int
    as_torch: bool
    asked: float


def owned(bound: Bound) -> Bound:
    """Return checked inputs that share no memory with the caller's, who may refill one buffer for every call."""
    return bound._replace(arrays=[array.copy() for array in bound.arrays])


class Run(NamedTuple):
    """One call of the runtime: when it began and ended, and the seconds of it spent on copying.

    A call that waited for another one on its device begins when it has.
    """

    begun: float
    ended: float
    copied: float


def pad(arrays: Arrays, size: int) -> Arrays:
    """Repeat the last sample until there are ``size``."""
    return [np.concatenate([a, np.repeat(a[-1:], size - a.shape[0], axis=0)]) for a in arrays]


def by_shape(items: Sequence[Arrays]) -> list[list[int]]:
    """Return the positions of items that can be joined: those with the same shape of a sample."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for position, arrays in enumerate(items):
        groups.setdefault(tuple(array.shape[1:] for array in arrays), []).append(position)
    return list(groups.values())


def run_in_batches(
    items: Sequence[Arrays],
    batch: int,
    *,
    fixed: bool,
    calls: Callable[[Iterable[Arrays]], Iterable[tuple[Arrays, Run]]],
    pool: BufferPool,
) -> list[tuple[Arrays, list[Run]]]:
    """Run the samples of all items in calls of ``batch`` samples; return each item's outputs and the calls it was in.

    The samples of all items have one shape. The last call is smaller, or padded and cut where the batch is ``fixed``.
    Items are joined in buffers of ``pool``. ``calls`` runs what it is given call by call, in order.
    """
    joined, lent = join(items, pool)
    total = joined[0].shape[0]
    counts = [min(batch, total - start) for start in range(0, total, batch)]
    parts: list[Arrays] = []
    runs: list[Run] = []
    try:
        for count, (outputs, run) in zip(counts, calls(_cut(joined, batch, fixed=fixed)), strict=True):
            runs.append(run)
            parts.append(cut(outputs, count))
    finally:
        for array in lent:
            pool.give(array)
    outputs = [_join([part[i] for part in parts]) for i in range(len(parts[0]))]
    return share_out(items, outputs, runs, batch)


def _cut(joined: Arrays, batch: int, *, fixed: bool) -> Iterator[Arrays]:
    total = joined[0].shape[0]
    for start in range(0, total, batch):
        inputs = joined if batch >= total else [array[start : start + batch] for array in joined]
        yield pad(inputs, batch) if fixed and inputs[0].shape[0] < batch else inputs


def one_by_one(
    call: Callable[[Arrays], tuple[Arrays, float]],
) -> Callable[[Iterable[Arrays]], Iterator[tuple[Arrays, Run]]]:
    """Return what makes one call after the other with ``call``, which gives outputs and the seconds that it copied."""

    def calls(batches: Iterable[Arrays]) -> Iterator[tuple[Arrays, Run]]:
        for inputs in batches:
            begun = time.perf_counter()
            outputs, copied = call(inputs)
            yield outputs, Run(begun, time.perf_counter(), copied)

    return calls


def cut(outputs: Arrays, count: int) -> Arrays:
    """Return the outputs of the first ``count`` samples."""
    return outputs if outputs[0].shape[0] == count else [output[:count] for output in outputs]


def join(items: Sequence[Arrays], pool: BufferPool) -> tuple[Arrays, Arrays]:
    """Return the samples of all items behind one another, and the buffers of it that go back to the pool."""
    if len(items) == 1:
        return items[0], []
    lent: Arrays = []
    for parts in zip(*items, strict=True):
        total = sum(part.shape[0] for part in parts)
        buffer = pool.take((total, *parts[0].shape[1:]), parts[0].dtype.name)
        lent.append(buffer)
        np.concatenate(parts, out=buffer)
    return list(lent), lent


def share_out(items: Sequence[Arrays], outputs: Arrays, runs: list[Run], batch: int) -> list[tuple[Arrays, list[Run]]]:
    """Give each item its outputs, and of the calls of ``batch`` samples those that it was in."""
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


def _join(parts: Arrays) -> np.ndarray[Any, Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
