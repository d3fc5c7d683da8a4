"""Dynamic batching and awaited calls: threads and coroutines share an engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from workbench.core.checks import require_bool, require_int
from workbench.core.errors import ConfigError, EngineError, InputError
from workbench.engine.calls.batch_queue import BatchQueue, wait_seconds
from workbench.engine.calls.batching import BoundInputs, InferenceResult
from workbench.engine.calls.session import EngineSession, GetSession

if TYPE_CHECKING:
    from workbench.engine.calls.batching import InferenceResult
    from workbench.engine.calls.session import GetSession


class _Request(NamedTuple):
    bound: BoundInputs
    future: Future[InferenceResult]


class Batcher:
    """Join inputs into calls of up to ``batch_size`` samples; made by ``engine.batcher(...)``.

    Inputs run in order of arrival, on as many threads as the engine has parallel calls. A call starts if enough samples
    wait for a full batch, ``max_wait_ms`` after the first of them arrived (None: no time limit), or when the batcher is
    closed. If ``pending`` inputs (None: four batches) wait, further callers block. With ``copy=False`` inputs must not
    change until the result is there.

    Examples
    --------
    >>> with engine.batcher(batch_size=32, max_wait_ms=2.0) as batcher:  # doctest: +SKIP
    ...     result = batcher.predict(x)  # from any thread
    """

    def __init__(
        self,
        session: GetSession,
        *,
        batch_size: int | None = None,
        max_wait_ms: float | None = 2.0,
        pending: int | None = None,
        copy: bool = True,
    ) -> None:
        self.batch_size = session().call_size if batch_size is None else batch_size
        require_int("batcher: batch_size", self.batch_size, minimum=1)
        wait_s = wait_seconds("batcher", max_wait_ms)
        limit = 4 * self.batch_size if pending is None else pending
        require_int("batcher: pending", limit, minimum=1)
        if max_wait_ms is None and limit < self.batch_size:
            raise ConfigError(
                f"batcher: with max_wait_ms=None a call waits for {self.batch_size} samples, and pending={pending} "
                "inputs may not hold so many. Give a larger pending, or a max_wait_ms."
            )
        self._session, self._closed, self._copy = session, False, require_bool("batcher: copy", copy)
        self._limits = f"batch_size={self.batch_size}, max_wait_ms={max_wait_ms}, pending={limit}"
        self._queue: BatchQueue[_Request] = BatchQueue(size=self.batch_size, wait_s=wait_s, limit=limit)
        self._lock = threading.Lock()
        self._threads: tuple[threading.Thread, ...] = ()  # start with the first input

    def submit(self, inputs: Any) -> Future[InferenceResult]:
        """Submit inputs and return a future; block while ``pending`` inputs wait.

        Raises InputError if they do not fit the model, and EngineError if the batcher or the engine is closed.
        """
        bound = self._session().bound(inputs)
        bound = bound.copy() if self._copy else bound
        request = _Request(bound, Future())
        self._start()
        if not self._queue.put(request, samples=bound.size, weight=1, requested=bound.requested):
            raise EngineError("The batcher is closed. Make a new one with engine.batcher(...).")
        return request.future

    def _start(self) -> None:
        if self._threads:
            return
        with self._lock:
            if not self._threads:
                session = self._session()
                session.release_workers()
                self._threads = tuple(
                    threading.Thread(target=self._work, name="workbench-batcher", daemon=True)
                    for _ in range(session.parallel_calls)
                )
                for thread in self._threads:
                    thread.start()

    def predict(self, inputs: Any) -> InferenceResult:
        """Run inputs together with those of other threads; as ``engine.predict``.

        ``queue_ms`` is the wait for others and for earlier calls, ``compute_ms`` the time of the whole call.
        """
        return self.submit(inputs).result()

    def close(self) -> None:
        """Run the waiting inputs and end the threads; may be called twice."""
        self.finish()
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """Accept no more inputs and run the waiting ones; returns at once."""
        self._closed = True
        self._queue.finish()

    def cancel(self) -> None:
        """Cancel the futures of waiting inputs; running calls end."""
        self._closed = True
        for request in self._queue.cancel():
            request.future.cancel()

    def __repr__(self) -> str:
        return f"Batcher({self._limits}, {'closed' if self._closed else 'open'})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while group := self._queue.take():
            live = [request for request in group if request.future.set_running_or_notify_cancel()]
            if not live:
                continue
            try:
                results = self._session().run_bound([request.bound for request in live], self.batch_size)
            except BaseException as error:  # noqa: BLE001 - raised by the futures; the next call goes on
                for request in live:
                    request.future.set_exception(error)
                continue
            for request, result in zip(live, results, strict=True):
                request.future.set_result(result)


def predict_batch(session: EngineSession, items: Sequence[Any]) -> list[InferenceResult]:
    """Run many inputs; see :meth:`OptimizedInferenceEngine.predict_batch`."""
    if not isinstance(items, list | tuple):
        raise InputError(f"predict_batch takes a list of inputs, got {type(items).__name__}. For one: predict(x).")
    bound = [session.bound(item, position) for position, item in enumerate(items)]
    return session.run_bound(bound, session.call_size)


class AwaitedCalls:
    """Run calls of coroutines on the engine's own threads, which start with the first call."""

    def __init__(self, session: GetSession) -> None:
        self._session = session
        self._executor: ThreadPoolExecutor | None = None

    async def predict(self, inputs: Any, *, copy: bool) -> InferenceResult:
        """Run one batch; see :meth:`OptimizedInferenceEngine.apredict`."""
        session = self._session()
        bound = session.bound(inputs)
        bound = bound.copy() if copy else bound
        if self._executor is None:
            session.release_workers()
            self._executor = ThreadPoolExecutor(session.parallel_calls, thread_name_prefix="workbench-engine")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, bound)

    def _run(self, bound: BoundInputs) -> InferenceResult:
        return self._session().run_bound([bound], bound.size)[0]

    def close(self) -> None:
        """End the threads; calls that have not begun raise the error of a disposed engine."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)  # cancelling futures would cancel the tasks that wait for them
