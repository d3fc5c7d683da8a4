"""How many calls of a session may run at once, and what runs so many."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import TracebackType

from workbench.artifact.reference import Arrays
from workbench.engine.calls.batching import Run


class Gate:
    """Lets ``width`` threads into a ``with`` block at once; the others wait.

    Examples
    --------
    >>> gate = Gate(2)
    >>> with gate, gate:
    ...     "two are in"
    'two are in'
    """

    def __init__(self, width: int) -> None:
        self.width = width
        # A lock costs a tenth of a semaphore, and most sessions run one call at a time.
        self._permits = threading.Lock() if width == 1 else threading.Semaphore(width)
        self._closing = threading.Lock()

    def __enter__(self) -> None:
        self._permits.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._permits.release()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is in, and let nobody in meanwhile."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._closing)  # two that took half of the permits each would wait for ever
            for _ in range(self.width):
                stack.enter_context(self)
            yield


class AtOnce:
    """Runs batches that are all there already in as many calls at once as a gate lets in."""

    def __init__(self, call: Callable[[Arrays], tuple[Arrays, float]], gate: Gate) -> None:
        self._call, self._gate = call, gate
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None  # starts with the first two batches

    def calls(self, batches: Iterable[Arrays]) -> list[tuple[Arrays, Run]]:
        """Return what each call gave, in order; none is left running when one has failed, since they share buffers."""
        several = list(batches)
        if len(several) == 1:
            return [self._one(several[0])]
        futures = [self._workers().submit(self._one, inputs) for inputs in several]
        failed = [future for future in wait(futures, return_when=FIRST_EXCEPTION).done if future.exception()]
        if failed:
            wait([future for future in futures if not future.cancel()])
            failed[0].result()
        return [future.result() for future in futures]

    def _one(self, inputs: Arrays) -> tuple[Arrays, Run]:
        with self._gate:
            begun = time.perf_counter()
            outputs, copied = self._call(inputs)
            return outputs, Run(begun, time.perf_counter(), copied)

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._gate.width, thread_name_prefix="workbench-calls")
            return self._executor

    def close(self) -> None:
        """Let the threads end."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
