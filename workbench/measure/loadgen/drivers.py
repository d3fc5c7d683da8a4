"""How an engine answers each of LoadGen's scenarios: rows put together, calls warmed up, their pace estimated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from workbench.core.errors import InputError, TaskError
from workbench.measure.loadgen.sut import Direct, Queued, System
from workbench.measure.loadgen.test import Load
from workbench.tasks.trees import batch_size, slice_batch, tree_map
from workbench.timing.settling import run_for, warm_until_steady

_TASK_EXAMPLES = 64
_ESTIMATE_S = 0.1
_SPARE = 1.15
"""LoadGen makes its queries beforehand: with too low a pace expected, they would be used up before the time is."""
_PART_S = 0.25
_CALLS_IN_PART = 8
_SIZES_S = 5.0
_PENDING = 1 << 24


class ServedEngine(Protocol):
    """What is needed of an engine: the OptimizedInferenceEngine has it."""

    @property
    def call_size(self) -> int:
        """Samples in one call of predict_batch."""

    @property
    def parallel_calls(self) -> int:
        """How many calls run at once."""

    def predict(self, inputs: Any) -> Any:
        """Run one batch."""

    def predict_batch(self, items: Any) -> Any:
        """Run many batches."""

    def batcher(self, *, batch_size: int | None, max_wait_ms: float | None, pending: int | None) -> Any:
        """Return what joins single rows into calls."""


class Rows:
    """Samples from which queries take rows.

    Parameters
    ----------
    samples : array, tuple or dict, or Task
        With a leading dimension ``[n, ...]``; of a task its examples are taken.

    Raises
    ------
    InputError
        If there is no row.
    """

    def __init__(self, samples: Any) -> None:
        examples = getattr(samples, "examples", None)
        self._tree = examples(_TASK_EXAMPLES) if callable(examples) else samples
        try:
            self.count = batch_size(self._tree)
        except TaskError as error:
            raise InputError(f"samples must be what predict takes, with rows in the first dimension: {error}") from None
        if self.count == 0:
            raise InputError("samples has no row. Give at least one.")
        self._each = [slice_batch(self._tree, row, row + 1) for row in range(self.count)]

    def some(self, places: list[int]) -> Any:
        """Return the rows at some places as one batch: a view of a single one, else a copy."""
        if len(places) == 1:
            return self._each[places[0]]
        return tree_map(lambda leaf: leaf[places], self._tree)

    def first(self, size: int) -> list[int]:
        """Return the places of ``size`` rows, over again where there are not so many."""
        return [place % self.count for place in range(size)]


@contextmanager
def prepared(engine: ServedEngine, rows: Rows, load: Load, *, max_wait_ms: float) -> Iterator[tuple[System, Load]]:
    """Yield what answers the load, warm, and the load with the pace to expect."""
    if load.scenario == "Server":
        with _queued(engine, rows, max_wait_ms) as system:
            yield system, replace(load, outstanding=_outstanding(load, engine.call_size))
    else:
        yield _direct(engine, rows, load)


def _direct(engine: ServedEngine, rows: Rows, load: Load) -> tuple[System, Load]:
    if load.scenario == "Offline":
        call, part = _joined(engine, rows)
        pace = part * 1e3 / float(np.median(_warm_ms(lambda: call(rows.first(part)))))
        return Direct(call, part=part), replace(load, per_s=_SPARE * pace)
    size = load.samples_per_query

    def one(places: list[int]) -> object:
        return engine.predict(rows.some(places))

    quickest_ms = min(_warm_ms(lambda: one(rows.first(size))))  # the test ends by time: queries left over cost nothing
    return Direct(one, part=size), replace(load, per_s=_SPARE * 1e3 / quickest_ms)


def _joined(engine: ServedEngine, rows: Rows) -> tuple[Callable[[list[int]], object], int]:
    """Return what runs many rows by predict_batch, and how many at a time.

    Several calls at a time, so that those of an engine that runs them side by side overlap; but not for long, since
    between them Ctrl-C is heard.
    """
    size = engine.call_size

    def call(places: list[int]) -> object:
        return engine.predict_batch([rows.some(places[at : at + size]) for at in range(0, len(places), size)])

    ms = float(np.median(_warm_ms(lambda: call(rows.first(size)))))
    at_once = min(_CALLS_IN_PART, 1 + int(_PART_S * 1e3 / ms))
    return call, size * max(engine.parallel_calls, at_once)


def _warm_ms(call: Callable[[], object]) -> list[float]:
    """Run until the time per call is steady, and return ms of some calls from then on."""
    warm_until_steady(call)
    return run_for(call, _ESTIMATE_S)


@contextmanager
def _queued(engine: ServedEngine, rows: Rows, max_wait_ms: float) -> Iterator[System]:
    # LoadGen ends a test with too many outstanding queries; a line that blocks would hold up its arrivals instead.
    with engine.batcher(batch_size=None, max_wait_ms=max_wait_ms, pending=_PENDING) as batcher:
        until = time.perf_counter() + _SIZES_S
        for size in range(engine.call_size, 0, -1):  # runtimes prepare each size when they first see it
            if size == 1 or time.perf_counter() < until:
                batcher.predict(rows.some(rows.first(size)))
        warm_until_steady(lambda: batcher.predict(rows.some([0])))
        yield Queued(lambda place: batcher.submit(rows.some([place])), batcher.cancel)


def _outstanding(load: Load, call_size: int) -> int:
    """Return how many rows may wait before the percentile is lost for certain, so that LoadGen need not go on.

    Of so many, all but those that arrived within the latency bound are late already, and those are more than may be of
    the whole test; a quarter more, since arrivals come by chance.
    """
    within = load.per_s * load.latency_bound_ms / 1e3
    allowed = (1 - load.percentile) * load.per_s * load.duration_s
    return math.ceil(1.25 * (within + allowed)) + 4 * call_size + 16
