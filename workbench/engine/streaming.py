"""A stream of inputs through an engine: read ahead, run in batches, give the results back in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workbench.core.errors import EngineError, InputError
from workbench.core.given import given, require_count, require_milliseconds
from workbench.engine.batching import Bound
from workbench.engine.gathering import Gatherer

if TYPE_CHECKING:
    from workbench.engine.concurrent import ConcurrentCalls
    from workbench.engine.result import InferenceResult

_LEAVE_S = 1.0


def stream(
    engine: ConcurrentCalls,
    items: Iterable[Any],
    *,
    batch_size: int | None,
    max_wait_ms: float | None,
    prefetch: int,
) -> Iterator[InferenceResult]:
    """Return the results of ``items``; see :meth:`OptimizedInferenceEngine.stream`. Arguments are checked at once."""
    require_count("stream: prefetch", prefetch, minimum=1)
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise InputError(f"stream takes an iterable of inputs, each as for predict, got {given(items)}.")
    size = engine.call_size if batch_size is None else batch_size
    require_count("stream: batch_size", size, minimum=1)
    wait_s = None if max_wait_ms is None else require_milliseconds("stream: max_wait_ms", max_wait_ms) / 1e3
    run = _run_here if engine.prefers_one_thread else _run_ahead
    return _results(_Reader(engine, iter(items), size, wait_s, prefetch), run)


class _Reader:
    """A thread that reads and checks items ahead, and the groups of them that are worth a call."""

    def __init__(
        self, engine: ConcurrentCalls, items: Iterator[Any], size: int, wait_s: float | None, prefetch: int
    ) -> None:
        self.engine, self.size, self.prefetch = engine, size, prefetch
        self.line: Gatherer[Bound] = Gatherer(size=size, wait_s=wait_s, limit=size * prefetch)
        self._items = items
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="workbench-stream", daemon=True)

    def results(self) -> Iterator[list[InferenceResult]]:
        """Run group by group, and then raise what ended the reading."""
        yield from self.engine.run_line(self.line, self.size)
        if self._error is not None:
            raise self._error

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def leave(self) -> None:
        """Stop reading. A thread that waits inside ``items`` ends with the next item."""
        self.line.cancel()
        self._thread.join(_LEAVE_S)

    def _read(self) -> None:
        try:
            for position, item in enumerate(self._items):
                bound = self._bound(position, item)
                if not self.line.put(bound, samples=bound.size, weight=bound.size, asked=time.perf_counter()):
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
            self._error = error
        self.line.finish()

    def _bound(self, position: int, item: Any) -> Bound:
        try:
            return self.engine.bound(item)
        except (InputError, EngineError) as error:
            raise type(error)(f"Item {position}: {error}") from error


def _results(reader: _Reader, run: Any) -> Iterator[InferenceResult]:
    reader.start()
    try:
        for results in run(reader):
            yield from results
    finally:
        reader.leave()


def _run_here(reader: _Reader) -> Iterator[list[InferenceResult]]:
    """Run on the thread that asks for the results."""
    return reader.results()


def _run_ahead(reader: _Reader) -> Iterator[list[InferenceResult]]:
    """Run on a thread of its own while the caller works on the results before."""
    line: queue.Queue[list[InferenceResult] | BaseException | None] = queue.Queue(reader.prefetch)
    left = threading.Event()

    def work() -> None:
        try:
            for results in reader.results():
                line.put(results)
                if left.is_set():
                    return
            line.put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
            line.put(error)

    worker = threading.Thread(target=work, name="workbench-stream-calls", daemon=True)
    worker.start()
    try:
        while (found := line.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        left.set()
        reader.line.cancel()
        while worker.is_alive():  # it may wait for room in the line
            _empty(line)
            worker.join(0.01)


def _empty(line: queue.Queue[Any]) -> None:
    while True:
        try:
            line.get_nowait()
        except queue.Empty:
            return
