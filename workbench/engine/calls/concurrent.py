"""Calls of many inputs at once, and awaited calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from workbench.core.errors import InputError
from workbench.engine.calls.batching import BoundInputs
from workbench.engine.calls.result import InferenceResult
from workbench.engine.calls.session import EngineSession, GetSession


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
