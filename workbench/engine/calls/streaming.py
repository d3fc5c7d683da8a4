"""A stream of inputs through an engine: read ahead, run in batches, give the results back in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workbench.core.checks import given, require_bool, require_int, require_nonnegative
from workbench.core.errors import EngineError, InputError
from workbench.engine.calls.batch_queue import Gatherer
from workbench.engine.calls.batching import Bound, owned

if TYPE_CHECKING:
    from workbench.engine.calls.concurrent import ConcurrentCalls
    from workbench.engine.calls.result import InferenceResult

_LEAVE_S = 1.0
_WORTH_A_THREAD = 0.03
"""Share of the time of the calls: threads that wake up cost about as much where the runtime uses every core."""


def stream(
    engine: ConcurrentCalls,
    items: Iterable[Any],
    *,
    batch_size: int | None,
    max_wait_ms: float | None,
    prefetch: int,
    copy: bool,
) -> Iterator[InferenceResult]:
    """Return the results of ``items``; see :meth:`OptimizedInferenceEngine.stream`. Arguments are checked at once."""
    require_int("stream: prefetch", prefetch, minimum=1)
    require_bool("stream: copy", copy)
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise InputError(f"stream takes an iterable of inputs, each as for predict, got {given(items)}.")
    size = engine.call_size if batch_size is None else batch_size
    require_int("stream: batch_size", size, minimum=1)
    wait_s = (
        None
        if max_wait_ms is None
        else require_nonnegative("stream: max_wait_ms", max_wait_ms, unit="milliseconds") / 1e3
    )
    reader = _Reader(engine, iter(items), size, wait_s, prefetch, copy=copy)
    return _results(reader, plain=wait_s is None and not engine.overlaps)


class _Reader:
    """Reads and checks items, and hands them out in groups that are worth a call; on a thread of its own if asked."""

    def __init__(
        self,
        engine: ConcurrentCalls,
        items: Iterator[Any],
        size: int,
        wait_s: float | None,
        prefetch: int,
        *,
        copy: bool,
    ) -> None:
        self.engine, self.size, self.prefetch = engine, size, prefetch
        together = size * engine.parallel_calls
        self.line: Gatherer[Bound] = Gatherer(size=together, wait_s=wait_s, limit=together * prefetch)
        self.finished, self._copy = False, copy
        self._items = enumerate(items)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def plainly(self) -> Iterator[list[InferenceResult]]:
        """Read and run by turns on this thread, until all is done or a thread would be worth its cost."""
        away = calling = 0.0
        while away <= _WORTH_A_THREAD * calling:
            read_s = self._fill()
            begun = time.perf_counter()
            group = self.line.take()
            if not group:
                return
            results = self.engine.run_bound(group, self.size)
            ended = time.perf_counter()
            yield results
            # What was long ago counts less and less: a source may become slow, or fast.
            away = away / 2 + read_s + (time.perf_counter() - ended)
            calling = calling / 2 + (ended - begun)

    def ahead(self) -> Iterator[list[InferenceResult]]:
        """Run what is read meanwhile on a thread of its own, group by group."""
        self._thread = threading.Thread(target=self._read, name="workbench-stream", daemon=True)
        self._thread.start()
        return self.engine.run_line(self.line, self.size)

    def raise_error(self) -> None:
        """Raise what ended the reading."""
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """Stop reading. A thread that waits inside ``items`` ends with the next item."""
        self.line.cancel()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)

    def _fill(self) -> float:
        """Read until a group is due, and return the seconds that the items took to come."""
        took = 0.0
        while not self.line.ready:
            begun = time.perf_counter()
            item = self._next()
            took += time.perf_counter() - begun
            if item is None or not self._put(*item):
                self._finish()
        return took

    def _read(self) -> None:
        try:
            while (item := self._next()) is not None and self._put(*item):
                pass
        except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
            self._error = error
        self._finish()

    def _next(self) -> tuple[int, Any] | None:
        try:
            return next(self._items, None)
        except Exception as error:  # noqa: BLE001 - raised behind the results of the items before
            self._error = error
            return None

    def _put(self, position: int, item: Any) -> bool:
        """Check one item and put it in the line; False where nothing more is to come."""
        try:
            bound = self.engine.bound(item)
            bound = owned(bound) if self._copy else bound
        except (InputError, EngineError) as error:
            self._error = type(error)(f"Item {position}: {error}")
            self._error.__cause__ = error
            return False
        return self.line.put(bound, samples=bound.size, weight=bound.size, asked=time.perf_counter())

    def _finish(self) -> None:
        self.finished = True
        self.line.finish()


def _results(reader: _Reader, *, plain: bool) -> Iterator[InferenceResult]:
    try:
        if plain:
            for results in reader.plainly():
                yield from results
        if not (plain and reader.finished):
            for results in reader.ahead() if reader.engine.prefers_one_thread else _run_ahead(reader):
                yield from results
        reader.raise_error()
    finally:
        reader.leave()


def _run_ahead(reader: _Reader) -> Iterator[list[InferenceResult]]:
    """Run on a thread of its own while the caller works on the results before."""
    line: queue.Queue[list[InferenceResult] | BaseException | None] = queue.Queue(reader.prefetch)
    left = threading.Event()

    def work() -> None:
        try:
            for results in reader.ahead():
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
