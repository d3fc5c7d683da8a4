"""A stream of inputs through an engine: read ahead, run in batches, give the results back in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from workbench.core.errors import EngineError, InputError
from workbench.core.given import given, require_count
from workbench.engine.batcher import Batcher

if TYPE_CHECKING:
    from workbench.engine.concurrent import ConcurrentCalls
    from workbench.engine.result import InferenceResult

_LOOK_S, _LEAVE_S = 0.1, 1.0


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
    ahead = (prefetch + 1) * size  # one batch runs while the others are read
    batcher = Batcher(engine, batch_size=size, max_wait_ms=max_wait_ms, pending=ahead)
    return _Stream(batcher, iter(items), ahead).results()


class _Stream:
    """A reader thread that fills a bounded line of futures, and the one who asks for results and empties it."""

    def __init__(self, batcher: Batcher, items: Iterator[Any], ahead: int) -> None:
        self._batcher, self._items = batcher, items
        self._line: queue.Queue[Future[InferenceResult] | BaseException | None] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._reader = threading.Thread(target=self._read, name="workbench-stream", daemon=True)

    def results(self) -> Iterator[InferenceResult]:
        """Yield the results in order; what went wrong is raised in its place."""
        self._reader.start()
        try:
            while (found := self._line.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield found.result()
        finally:
            self._stopped.set()
            self._batcher.cancel()
            self._reader.join(_LEAVE_S)  # one that waits inside ``items`` ends with the next item
            self._batcher.close()

    def _read(self) -> None:
        end: BaseException | None = None
        try:
            for position, item in enumerate(self._items):
                if self._stopped.is_set() or not self._put(self._submit(position, item)):
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the results are asked for
            end = error
        self._batcher.finish()
        if end is not None:
            self._put(end)
        self._put(None)

    def _submit(self, position: int, item: Any) -> Future[InferenceResult]:
        try:
            return self._batcher.submit(item)
        except (InputError, EngineError) as error:
            raise type(error)(f"Item {position}: {error}") from error

    def _put(self, found: Future[InferenceResult] | BaseException | None) -> bool:
        """Wait for room in the line; False once nobody asks any more."""
        while not self._stopped.is_set():
            try:
                self._line.put(found, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False
