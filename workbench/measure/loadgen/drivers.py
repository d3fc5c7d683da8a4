"""Drive an engine for each LoadGen scenario: assemble rows, warm up calls, estimate the expected rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from workbench.core.errors import InputError, TaskError
from workbench.measure.loadgen.run import BatchedSut, DirectSut, Load, LoadGenSut
from workbench.tasks.trees import batch_size, slice_batch, tree_map
from workbench.timing.settling import run_for, warm_until_steady

_TASK_EXAMPLES = 64
_ESTIMATE_S = 0.1
_SPARE = 1.15
"""Factor on the estimated rate: LoadGen makes its queries beforehand and must not run out of them."""
_PART_S = 0.25
_CALLS_IN_PART = 8
_SIZES_S = 5.0
_PENDING = 1 << 24


class ServedEngine(Protocol):
    """The methods that a scenario calls; OptimizedInferenceEngine has them."""

    @property
    def call_size(self) -> int: ...
    @property
    def parallel_calls(self) -> int: ...
    def predict(self, inputs: Any) -> Any: ...
    def predict_batch(self, items: Any) -> Any: ...
    def batcher(self, *, batch_size: int | None, max_wait_ms: float | None, pending: int | None) -> Any: ...


class Rows:
    """Samples ``[n, ...]`` whose rows the queries refer to; a task stands for its examples."""

    def __init__(self, samples: Any) -> None:
        examples = getattr(samples, "examples", None)
        self._tree = examples(_TASK_EXAMPLES) if callable(examples) else samples
        try:
            self.count = batch_size(self._tree)
        except TaskError as error:
            raise InputError(f"samples must be inputs of predict with a first dimension of rows: {error}") from None
        if self.count == 0:
            raise InputError("samples must have at least one row, got none.")
        self._each = [slice_batch(self._tree, row, row + 1) for row in range(self.count)]

    def some(self, places: list[int]) -> Any:
        """Return the rows at some indices as one batch: a view of a single row, else a copy."""
        if len(places) == 1:
            return self._each[places[0]]
        return tree_map(lambda leaf: leaf[places], self._tree)

    def first(self, size: int) -> list[int]:
        """Return the indices of ``size`` rows, repeated if there are fewer."""
        return [place % self.count for place in range(size)]


@contextmanager
def prepared_sut(
    engine: ServedEngine, rows: Rows, load: Load, *, max_wait_ms: float
) -> Iterator[tuple[LoadGenSut, Load]]:
    """Yield a warm system under test, and the load with its expected rate."""
    if load.scenario == "Server":
        with _queued(engine, rows, max_wait_ms) as system:
            yield system, replace(load, outstanding=_outstanding(load, engine.call_size))
    else:
        yield _direct(engine, rows, load)


def _direct(engine: ServedEngine, rows: Rows, load: Load) -> tuple[LoadGenSut, Load]:
    if load.scenario == "Offline":
        call, part = _offline_call(engine, rows)
        pace = part * 1e3 / float(np.median(_warm_ms(lambda: call(rows.first(part)))))
        return DirectSut(call, part=part), replace(load, per_s=_SPARE * pace)
    size = load.samples_per_query
    system = DirectSut(lambda places: engine.predict(rows.some(places)), part=size)
    first = rows.first(size)
    # the test ends by time: spare queries cost nothing
    fastest_ms = min(_warm_ms(lambda: engine.predict(rows.some(first))))
    return system, replace(load, per_s=_SPARE * 1e3 / fastest_ms)


def _offline_call(engine: ServedEngine, rows: Rows) -> tuple[Callable[[list[int]], object], int]:
    """Return a function that runs rows by predict_batch, and the number of rows per part.

    A part has several calls, so that concurrent ones overlap; but it is short, because Ctrl-C is handled between parts.
    """
    size = engine.call_size

    def call(places: list[int]) -> object:
        return engine.predict_batch([rows.some(places[at : at + size]) for at in range(0, len(places), size)])

    ms = float(np.median(_warm_ms(lambda: call(rows.first(size)))))
    at_once = min(_CALLS_IN_PART, 1 + int(_PART_S * 1e3 / ms))
    return call, size * max(engine.parallel_calls, at_once)


def _warm_ms(call: Callable[[], object]) -> list[float]:
    """Run until the time per call is steady; return the ms of the calls after that."""
    warm_until_steady(call)
    return run_for(call, _ESTIMATE_S)


@contextmanager
def _queued(engine: ServedEngine, rows: Rows, max_wait_ms: float) -> Iterator[LoadGenSut]:
    # LoadGen ends a test with too many outstanding queries; a bounded queue would delay the arrivals instead.
    with engine.batcher(batch_size=None, max_wait_ms=max_wait_ms, pending=_PENDING) as batcher:
        until = time.perf_counter() + _SIZES_S
        for size in range(engine.call_size, 0, -1):  # runtimes prepare each size in its first call
            if size == 1 or time.perf_counter() < until:
                batcher.predict(rows.some(rows.first(size)))
        warm_until_steady(lambda: batcher.predict(rows.some([0])))
        yield BatchedSut(lambda place: batcher.submit(rows.some([place])), batcher.cancel)


def _outstanding(load: Load, call_size: int) -> int:
    """Return the number of outstanding rows at which the percentile certainly exceeds the bound, so the test can end.

    All of them but those that arrived within the latency bound are late, and these are more than the percentile allows
    in the whole test; plus a quarter, because arrivals are random.
    """
    within = load.per_s * load.latency_bound_ms / 1e3
    allowed = (1 - load.percentile) * load.per_s * load.duration_s
    return math.ceil(1.25 * (within + allowed)) + 4 * call_size + 16
