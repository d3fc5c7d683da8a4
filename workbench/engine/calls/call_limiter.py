"""Limit concurrent calls of a session, and run batches in parallel up to that limit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from workbench.artifact.reference import Arrays
from workbench.engine.calls.batching import RuntimeCall


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
            begun = time.perf_counter()
            outputs, copied = self._call(inputs)
            return outputs, RuntimeCall(begun, time.perf_counter(), copied)

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._limiter.width, thread_name_prefix="workbench-calls")
            return self._executor

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
