"""Pipelined GPU calls: overlap host-to-device copies with compute.

For sessions with a ``pipe``: ``begin(inputs)`` returns at once, ``finish(flight)`` waits for the outputs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError
from workbench.engine.backends.oom_backoff import GuardedPipe
from workbench.engine.binding.buffers import BufferPool
from workbench.engine.calls.batching import (
    ItemOutputs,
    RuntimeCall,
    by_shape,
    join_inputs,
    pad,
    split_outputs,
    trim,
)
from workbench.engine.calls.call_limiter import CallLimiter

DEPTH = 2
"""Calls in flight: one computes while the inputs of the next travel. More would only hold more memory."""


class JoinedCall(NamedTuple):
    """A call of several items in flight."""

    flight: Any
    items: list[Arrays]
    total: int
    batch: int


class CallPipeline:
    """Begin and finish the calls of one session.

    ``fixed`` is the only batch size of the model, None for any. ``require_open`` raises EngineError if the session is
    closed; ``failure`` maps an error of the runtime to an EngineError.
    """

    def __init__(
        self,
        pipe: GuardedPipe,
        *,
        limiter: CallLimiter,
        pool: BufferPool,
        fixed: int | None,
        require_open: Callable[[], object],
        failure: Callable[[Exception], EngineError],
    ) -> None:
        self._pipe, self._limiter, self._pool, self._fixed = pipe, limiter, pool, fixed
        self._require_open, self._failure = require_open, failure

    def calls(self, batches: Iterable[Arrays]) -> Iterator[tuple[Arrays, RuntimeCall]]:
        """Run batches with two in flight; the caller holds the limiter."""
        flights: deque[Any] = deque()
        try:
            for inputs in batches:
                flights.append(self._begin(inputs))
                if len(flights) == DEPTH:
                    yield self._finish(flights.popleft())
            while flights:
                yield self._finish(flights.popleft())
        finally:
            self._abandon(flights)

    def begin(self, items: list[Arrays], batch: int) -> JoinedCall | None:
        """Begin one call of several items; return None if they do not fit into one."""
        total = sum(item[0].shape[0] for item in items)
        size = self._fixed or batch
        if total > size or len(by_shape(items)) > 1:
            return None
        with self._limiter:
            joined, lent = join_inputs(items, self._pool)
            try:
                flight = self._begin(pad(joined, size) if self._fixed and total < size else joined)
            finally:
                for array in lent:
                    self._pool.give(array)
        return JoinedCall(flight, items, total, size)

    def finish(self, call: JoinedCall) -> list[ItemOutputs]:
        """Wait for a call, and return the outputs of each item."""
        outputs, run = self._finish(call.flight)
        return split_outputs(call.items, trim(outputs, call.total), [run], call.batch)

    def abandon(self, calls: Iterable[JoinedCall]) -> None:
        """Wait for calls without using their results, so that their memory is returned."""
        self._abandon([call.flight for call in calls])

    def _begin(self, inputs: Arrays) -> Any:
        self._require_open()
        try:
            return self._pipe.begin(inputs)
        except EngineError:
            raise
        except Exception as error:
            raise self._failure(error) from error

    def _finish(self, flight: Any) -> tuple[Arrays, RuntimeCall]:
        try:
            outputs, copied, waited = self._pipe.finish(flight)
        except Exception as error:
            raise self._failure(error) from error
        return outputs, RuntimeCall(flight.begun + waited, time.perf_counter(), copied)

    def _abandon(self, flights: Iterable[Any]) -> None:
        for flight in flights:
            try:
                self._finish(flight)
            except EngineError:  # an earlier error is being raised
                return
