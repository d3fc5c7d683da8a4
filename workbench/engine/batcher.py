"""Dynamic batching: what several threads ask for at about the same time runs in one call of the runtime."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from workbench.core.errors import ConfigError, EngineError
from workbench.core.given import require_count, require_milliseconds
from workbench.engine.batching import Bound

if TYPE_CHECKING:
    from workbench.engine.concurrent import ConcurrentCalls
    from workbench.engine.result import InferenceResult


class _Ask(NamedTuple):
    bound: Bound
    future: Future[InferenceResult]


class Batcher:
    """Joins inputs into calls of up to ``batch_size`` samples; made by ``engine.batcher(...)``.

    A worker thread takes the inputs in the order in which they came. A call starts once enough samples wait for a full
    batch, or ``max_wait_ms`` after the first of them came, or when the batcher is closed. At most ``pending`` inputs
    wait: one more blocks the thread that brings it until there is room.

    Parameters
    ----------
    engine : OptimizedInferenceEngine
        Ready, and open as long as the batcher is.
    batch_size : int, optional
        Samples in one call; None: that of the engine.
    max_wait_ms : float, optional
        How long a sample may wait for others; None waits for a full batch.
    pending : int, optional
        How many inputs may wait; None: as many as four batches hold.

    Examples
    --------
    >>> with engine.batcher(batch_size=32, max_wait_ms=2.0) as batcher:  # doctest: +SKIP
    ...     result = batcher.predict(x)  # from any thread
    """

    def __init__(
        self,
        engine: ConcurrentCalls,
        *,
        batch_size: int | None = None,
        max_wait_ms: float | None = 2.0,
        pending: int | None = None,
    ) -> None:
        self.batch_size = engine.call_size if batch_size is None else batch_size
        require_count("batcher: batch_size", self.batch_size, minimum=1)
        self._wait_s = None if max_wait_ms is None else require_milliseconds("batcher: max_wait_ms", max_wait_ms) / 1e3
        self._pending = 4 * self.batch_size if pending is None else pending
        require_count("batcher: pending", self._pending, minimum=1)
        if max_wait_ms is None and self._pending < self.batch_size:
            raise ConfigError(
                f"batcher: with max_wait_ms=None a call waits for {self.batch_size} samples, and pending={pending} "
                "inputs may not hold so many. Give a larger pending, or a max_wait_ms."
            )
        self._engine = engine
        self._changed = threading.Condition()
        self._asks: deque[_Ask] = deque()
        self._samples = 0
        self._closed = False
        self._worker: threading.Thread | None = None  # starts with the first input

    def submit(self, inputs: Any) -> Future[InferenceResult]:
        """Hand inputs over and return at once with a future; blocks while ``pending`` inputs wait.

        Raises
        ------
        InputError
            If they do not fit the model.
        EngineError
            If batcher or engine are closed.
        """
        ask = _Ask(self._engine.bound(inputs), Future())
        with self._changed:
            while len(self._asks) >= self._pending and not self._closed:
                self._changed.wait()
            if self._closed:
                raise EngineError("The batcher is closed. Make a new one with engine.batcher(...).")
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="workbench-batcher", daemon=True)
                self._worker.start()
            self._asks.append(ask)
            self._samples += ask.bound.size
            self._changed.notify_all()
        return ask.future

    def predict(self, inputs: Any) -> InferenceResult:
        """Run inputs, together with what other threads bring meanwhile; as ``engine.predict``.

        ``queue_ms`` is the wait for others and for the call before, ``compute_ms`` that of the whole call.
        """
        return self.submit(inputs).result()

    def close(self) -> None:
        """Run what still waits, and end; may be called twice."""
        self.finish()
        if self._worker is not None:
            self._worker.join()

    def finish(self) -> None:
        """Take nothing more and run what waits without waiting for others; returns at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Drop what waits: its futures are cancelled. The call that runs now ends."""
        with self._changed:
            self._closed = True
            dropped, self._samples = list(self._asks), 0
            self._asks.clear()
            self._changed.notify_all()
        for ask in dropped:
            ask.future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while group := self._next():
            live = [ask for ask in group if ask.future.set_running_or_notify_cancel()]
            if not live:
                continue
            try:
                results = self._engine.run_bound([ask.bound for ask in live], self.batch_size)
            except BaseException as error:  # noqa: BLE001 - whoever asked must hear of it, and the next call goes on
                for ask in live:
                    ask.future.set_exception(error)
                continue
            for ask, result in zip(live, results, strict=True):
                ask.future.set_result(result)

    def _next(self) -> list[_Ask]:
        """Wait for what goes into the next call; nothing once the batcher is closed and empty."""
        with self._changed:
            while not self._due():
                self._changed.wait(self._patience())
            group: list[_Ask] = []
            taken = 0
            while self._asks and (not group or taken + self._asks[0].bound.size <= self.batch_size):
                ask = self._asks.popleft()
                taken += ask.bound.size
                group.append(ask)
            self._samples -= taken
            self._changed.notify_all()
            return group

    def _due(self) -> bool:
        patience = self._patience()
        return self._closed or self._samples >= self.batch_size or (patience is not None and patience <= 0)

    def _patience(self) -> float | None:
        """Return the seconds until the first input has waited long enough; None where nothing sets a time."""
        if not self._asks or self._wait_s is None:
            return None
        return self._asks[0].bound.asked + self._wait_s - time.perf_counter()
