"""Stream inputs through an engine: read ahead, run in batches, return results in order."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workbench.core.checks import given, require_bool, require_int
from workbench.core.errors import EngineError, InputError
from workbench.engine.calls.batch_queue import BatchQueue, wait_seconds
from workbench.engine.calls.batching import BoundInputs

if TYPE_CHECKING:
    from workbench.engine.calls.batching import InferenceResult
    from workbench.engine.calls.session import GetSession

_LEAVE_S = 1.0
_WORTH_A_THREAD = 0.03
"""Share of the calls' time from which reading gets a thread: waking threads costs about as much on busy cores."""


def stream(
    session: GetSession,
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
    size = session().call_size if batch_size is None else batch_size
    require_int("stream: batch_size", size, minimum=1)
    wait_s = wait_seconds("stream", max_wait_ms)
    reader = _Reader(session, iter(items), size, wait_s, prefetch, copy=copy)
    return _results(reader, inline=wait_s is None and not session().overlaps)


class _Reader:
    """Read and check items, and group them for calls; optionally on a thread of its own."""

    def __init__(
        self, session: GetSession, items: Iterator[Any], size: int, wait_s: float | None, prefetch: int, *, copy: bool
    ) -> None:
        self.session, self.size, self.prefetch = session, size, prefetch
        group = size * session().parallel_calls
        self.queue: BatchQueue[BoundInputs] = BatchQueue(size=group, wait_s=wait_s, limit=group * prefetch)
        self.finished, self._copy = False, copy
        self._items = enumerate(items)
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def inline(self) -> Iterator[list[InferenceResult]]:
        """Alternate reading and running on this thread, until done or until a thread is worth its cost."""
        idle = calling = 0.0
        while idle <= _WORTH_A_THREAD * calling:
            read_s = self._fill()
            begun = time.perf_counter()
            group = self.queue.take()
            if not group:
                return
            results = self.session().run_bound(group, self.size)
            ended = time.perf_counter()
            yield results
            # Earlier times count less and less: a source may become slow, or fast.
            idle = idle / 2 + read_s + (time.perf_counter() - ended)
            calling = calling / 2 + (ended - begun)

    def threaded(self) -> Iterator[list[InferenceResult]]:
        """Read on a thread, and run group by group here."""
        self._thread = threading.Thread(target=self._read, name="workbench-stream", daemon=True)
        self._thread.start()
        return self.session().run_queue(self.queue, self.size)

    def stop(self) -> None:
        """Stop reading; a thread that waits inside ``items`` ends with the next item."""
        self.queue.cancel()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)

    def _fill(self) -> float:
        """Read until a group is due; return the seconds spent in ``items``."""
        seconds = 0.0
        while not self.queue.ready:
            begun = time.perf_counter()
            item = self._next()
            seconds += time.perf_counter() - begun
            if item is None or not self._put(*item):
                self._finish()
        return seconds

    def _read(self) -> None:
        try:
            while (item := self._next()) is not None and self._put(*item):
                pass
        except BaseException as error:  # noqa: BLE001 - raised to the consumer of the results
            self.error = error
        self._finish()

    def _next(self) -> tuple[int, Any] | None:
        try:
            return next(self._items, None)
        except Exception as error:  # noqa: BLE001 - raised after the results of earlier items
            self.error = error
            return None

    def _put(self, position: int, item: Any) -> bool:
        """Check one item and queue it; return False if reading must end."""
        try:
            bound = self.session().bound(item)
            bound = bound.copy() if self._copy else bound
        except (InputError, EngineError) as error:
            self.error = type(error)(f"Item {position}: {error}")
            self.error.__cause__ = error
            return False
        return self.queue.put(bound, samples=bound.size, weight=bound.size, requested=time.perf_counter())

    def _finish(self) -> None:
        self.finished = True
        self.queue.finish()


def _results(reader: _Reader, *, inline: bool) -> Iterator[InferenceResult]:
    try:
        if inline:
            for results in reader.inline():
                yield from results
        if not (inline and reader.finished):
            for results in reader.threaded() if reader.session().prefers_one_thread else _run_ahead(reader):
                yield from results
        if reader.error is not None:
            raise reader.error
    finally:
        reader.stop()


def _run_ahead(reader: _Reader) -> Iterator[list[InferenceResult]]:
    """Run on a thread of its own while the caller uses earlier results."""
    done: queue.Queue[list[InferenceResult] | BaseException | None] = queue.Queue(reader.prefetch)
    stopped = threading.Event()

    def work() -> None:
        try:
            for results in reader.threaded():
                done.put(results)
                if stopped.is_set():
                    return
            done.put(None)
        except BaseException as error:  # noqa: BLE001 - raised to the consumer of the results
            done.put(error)

    worker = threading.Thread(target=work, name="workbench-stream-calls", daemon=True)
    worker.start()
    try:
        while (results := done.get()) is not None:
            if isinstance(results, BaseException):
                raise results
            yield results
    finally:
        stopped.set()
        reader.queue.cancel()
        while worker.is_alive():  # the worker may wait for room
            with contextlib.suppress(queue.Empty):
                done.get(timeout=0.01)
