"""Dynamic batching: what several threads ask for at about the same time runs in one call of the runtime."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from workbench.core.checks import require_bool, require_int, require_nonnegative
from workbench.core.errors import ConfigError, EngineError
from workbench.engine.calls.batch_queue import Gatherer
from workbench.engine.calls.batching import Bound, owned

if TYPE_CHECKING:
    from workbench.engine.calls.concurrent import ConcurrentCalls
    from workbench.engine.calls.result import InferenceResult


class _Ask(NamedTuple):
    bound: Bound
    future: Future[InferenceResult]


class Batcher:
    """Joins inputs into calls of up to ``batch_size`` samples; made by ``engine.batcher(...)``.

    Worker threads, as many as the engine runs calls at once, take the inputs in the order in which they came. A call
    starts once enough samples wait for a full batch, or ``max_wait_ms`` after the first of them came, or when the
    batcher is closed. At most ``pending`` inputs wait: one more blocks the thread that brings it until there is room.

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
    copy : bool
        Copy inputs as they are handed over, so that the caller may change them at once; with False they must stay as
        they are until the result is there.

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
        copy: bool = True,
    ) -> None:
        self.batch_size = engine.call_size if batch_size is None else batch_size
        require_int("batcher: batch_size", self.batch_size, minimum=1)
        wait_s = (
            None
            if max_wait_ms is None
            else require_nonnegative("batcher: max_wait_ms", max_wait_ms, unit="milliseconds") / 1e3
        )
        limit = 4 * self.batch_size if pending is None else pending
        require_int("batcher: pending", limit, minimum=1)
        if max_wait_ms is None and limit < self.batch_size:
            raise ConfigError(
                f"batcher: with max_wait_ms=None a call waits for {self.batch_size} samples, and pending={pending} "
                "inputs may not hold so many. Give a larger pending, or a max_wait_ms."
            )
        self._engine, self._closed, self._copy = engine, False, require_bool("batcher: copy", copy)
        self._limits = f"batch_size={self.batch_size}, max_wait_ms={max_wait_ms}, pending={limit}"
        self._line: Gatherer[_Ask] = Gatherer(size=self.batch_size, wait_s=wait_s, limit=limit)
        self._lock = threading.Lock()
        self._workers: tuple[threading.Thread, ...] = ()  # start with the first input

    def submit(self, inputs: Any) -> Future[InferenceResult]:
        """Hand inputs over and return at once with a future; blocks while ``pending`` inputs wait.

        Raises
        ------
        InputError
            If they do not fit the model.
        EngineError
            If batcher or engine are closed.
        """
        bound = self._engine.bound(inputs)
        bound = owned(bound) if self._copy else bound
        ask = _Ask(bound, Future())
        self._start()
        if not self._line.put(ask, samples=bound.size, weight=1, asked=bound.asked):
            raise EngineError("The batcher is closed. Make a new one with engine.batcher(...).")
        return ask.future

    def _start(self) -> None:
        if not self._workers:
            with self._lock:
                if not self._workers:
                    self._engine.leave_to_others()
                    count = self._engine.parallel_calls
                    self._workers = tuple(
                        threading.Thread(target=self._work, name="workbench-batcher", daemon=True) for _ in range(count)
                    )
                    for worker in self._workers:
                        worker.start()

    def predict(self, inputs: Any) -> InferenceResult:
        """Run inputs, together with what other threads bring meanwhile; as ``engine.predict``.

        ``queue_ms`` is the wait for others and for the call before, ``compute_ms`` that of the whole call.
        """
        return self.submit(inputs).result()

    def close(self) -> None:
        """Run what still waits, and end; may be called twice."""
        self.finish()
        for worker in self._workers:
            worker.join()

    def finish(self) -> None:
        """Take nothing more and run what waits without waiting for others; returns at once."""
        self._closed = True
        self._line.finish()

    def cancel(self) -> None:
        """Drop what waits: its futures are cancelled. The call that runs now ends."""
        self._closed = True
        for ask in self._line.cancel():
            ask.future.cancel()

    def __repr__(self) -> str:
        return f"Batcher({self._limits}, {'closed' if self._closed else 'open'})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while group := self._line.take():
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
