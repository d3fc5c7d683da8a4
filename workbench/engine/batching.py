"""Many small inputs in few calls: join them, run them in batches of the configured size, and split the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from workbench.artifact.reference import Arrays


class Bound(NamedTuple):
    """Checked inputs: flat arrays, samples, whether torch tensors were given, and when they were asked for."""

    arrays: Arrays
    size: int
    as_torch: bool
    asked: float


class Run(NamedTuple):
    """One call of the runtime: when it began and ended, and the seconds of it spent on copying."""

    begun: float
    ended: float
    copied: float


def pad(arrays: Arrays, size: int) -> Arrays:
    """Repeat the last sample until there are ``size``."""
    return [np.concatenate([a, np.repeat(a[-1:], size - a.shape[0], axis=0)]) for a in arrays]


def run_in_batches(
    items: Sequence[Arrays], batch: int, *, fixed: bool, call: Callable[[Arrays], tuple[Arrays, float]]
) -> list[tuple[Arrays, list[Run]]]:
    """Run the samples of all items in calls of ``batch`` samples; return each item's outputs and the calls it was in.

    The last call is smaller, or padded and cut where the batch is ``fixed``.
    """
    joined = items[0] if len(items) == 1 else [np.concatenate(parts) for parts in zip(*items, strict=True)]
    total = joined[0].shape[0]
    parts: list[Arrays] = []
    runs: list[Run] = []
    for start in range(0, total, batch):
        inputs = [array[start : start + batch] for array in joined]
        count = inputs[0].shape[0]
        begun = time.perf_counter()
        outputs, copied = call(pad(inputs, batch) if fixed and count < batch else inputs)
        runs.append(Run(begun, time.perf_counter(), copied))
        parts.append([output[:count] for output in outputs])
    outputs = [_join([part[i] for part in parts]) for i in range(len(parts[0]))]
    results = []
    start = 0
    for item in items:
        stop = start + item[0].shape[0]
        own = outputs if len(items) == 1 else [np.array(output[start:stop]) for output in outputs]
        results.append((own, runs[start // batch : (stop - 1) // batch + 1]))
        start = stop
    return results


def _join(parts: Arrays) -> np.ndarray[Any, Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
