"""Concurrent calls: a limit per session, parallel calls on streams of threads, and pipelined calls on a GPU."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
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
    timed_call,
    trim,
)


class CallLimiter:
    """Admit ``width`` threads to a ``with`` block at once."""

    def __init__(self, width: int) -> None:
        self.width = width
        # A lock costs a tenth of a semaphore, and most sessions run one call at a time.
        self._permits = threading.Lock() if width == 1 else threading.Semaphore(width)
        self._closing = threading.Lock()

    def __enter__(self) -> None:
        self._permits.acquire()

    def __exit__(self, *_: object) -> None:
        self._permits.release()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no call runs, and admit none meanwhile."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._closing)  # two threads with half of the permits each would deadlock
            for _ in range(self.width):
                stack.enter_context(self)
            yield


class ParallelCalls:
    """Run a list of batches in as many concurrent calls as a limiter admits."""

    def __init__(self, call: Callable[[Arrays], tuple[Arrays, float]], limiter: CallLimiter) -> None:
        self._call, self._limiter = call, limiter
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None  # starts with the first two batches

    def calls(self, batches: Iterable[Arrays]) -> list[tuple[Arrays, RuntimeCall]]:
        """Return the result of each call, in order; after a failure, wait for the others: they share buffers."""
        batches = list(batches)
        if len(batches) == 1:
            return [self._one(batches[0])]
        futures = [self._workers().submit(self._one, inputs) for inputs in batches]
        failed = [future for future in wait(futures, return_when=FIRST_EXCEPTION).done if future.exception()]
        if failed:
            wait([future for future in futures if not future.cancel()])
            failed[0].result()
        return [future.result() for future in futures]

    def _one(self, inputs: Arrays) -> tuple[Arrays, RuntimeCall]:
        with self._limiter:
            return timed_call(self._call, inputs)

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._limiter.width, thread_name_prefix="workbench-calls")
            return self._executor

    def close(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)


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
    closed; ``guarded`` calls a function and maps errors of the runtime to EngineError.
    """

    def __init__(
        self,
        pipe: GuardedPipe,
        limiter: CallLimiter,
        pool: BufferPool,
        require_open: Callable[[], object],
        guarded: Callable[..., Any],
        *,
        fixed: int | None,
    ) -> None:
        self._pipe, self._limiter, self._pool, self._fixed = pipe, limiter, pool, fixed
        self._require_open, self._guarded = require_open, guarded

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
        return self._guarded(self._pipe.begin, inputs)

    def _finish(self, flight: Any) -> tuple[Arrays, RuntimeCall]:
        outputs, copied, waited = self._guarded(self._pipe.finish, flight)
        return outputs, RuntimeCall(flight.begun + waited, time.perf_counter(), copied)

    def _abandon(self, flights: Iterable[Any]) -> None:
        for flight in flights:
            try:
                self._finish(flight)
            except EngineError:  # an earlier error is being raised
                return
