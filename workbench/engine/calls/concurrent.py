"""Calls of an engine beyond one after the other: many at a time, awaited, from several threads, or as a stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from workbench.core.checks import require_bool
from workbench.core.errors import InputError
from workbench.engine.calls.batch_queue import Gatherer
from workbench.engine.calls.batcher import Batcher
from workbench.engine.calls.batching import Bound, owned
from workbench.engine.calls.result import InferenceResult
from workbench.engine.calls.streaming import stream


class ConcurrentCalls(ABC):
    """What an engine offers beyond one call after the other, on top of checked inputs and calls of several of them."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    @property
    @abstractmethod
    def call_size(self) -> int:
        """Samples in one call, where nothing else is asked for."""

    @property
    @abstractmethod
    def prefers_one_thread(self) -> bool:
        """Whether calls from a second thread slow the runtime down."""

    @abstractmethod
    def leave_to_others(self) -> None:
        """Say that other threads than the one that calls are to run the engine."""

    @property
    @abstractmethod
    def parallel_calls(self) -> int:
        """How many calls run at once; those of further threads wait."""

    @property
    @abstractmethod
    def overlaps(self) -> bool:
        """Whether a call can begin before the one before it has ended."""

    @abstractmethod
    def bound(self, inputs: Any, position: int | None = None) -> Bound:
        """Return inputs checked and flattened; an error names their ``position`` among others."""

    @abstractmethod
    def run_bound(self, bound: Sequence[Bound], batch: int) -> list[InferenceResult]:
        """Run checked inputs in calls of ``batch`` samples, and return their results in order."""

    @abstractmethod
    def run_line(self, line: Gatherer[Bound], batch: int) -> Iterator[list[InferenceResult]]:
        """Run what a line hands out, group by group, until it ends."""

    def predict_batch(self, items: Sequence[Any]) -> list[InferenceResult]:
        """Run many inputs in calls of ``config.batch_size`` samples (or the fixed batch of the export).

        Each item is what :meth:`predict` takes, with a leading batch dimension of any size. Items are joined and split
        as needed; the results come in their order. An item's ``compute_ms`` is the sum of the calls that carried it,
        ``queue_ms`` the wait until the first of them, ``total_ms`` the time until the last ended.

        Raises
        ------
        InputError, EngineError
            As :meth:`predict`; nothing is run if one item does not fit, and its position is named.
        """
        size = self.call_size
        if not isinstance(items, list | tuple):
            raise InputError(f"predict_batch takes a list of inputs, got {type(items).__name__}. For one: predict(x).")
        return self.run_bound([self.bound(item, position) for position, item in enumerate(items)], size)

    async def apredict(self, inputs: Any, *, copy: bool = True) -> InferenceResult:
        """Run one batch without blocking the event loop; as :meth:`predict`, on a thread of the engine's own.

        Calls begin in the order in which they were awaited. A call that was cancelled before it began is dropped; one
        that runs ends, and its result is lost. Those that wait when the engine is disposed raise EngineError.

        Parameters
        ----------
        inputs
            As for :meth:`predict`.
        copy : bool
            Copy the inputs, so that the caller may change them at once; with False they must stay as they are until
            the result is there.

        Examples
        --------
        >>> results = await asyncio.gather(*(engine.apredict(x) for x in images))  # doctest: +SKIP
        """
        require_bool("apredict: copy", copy)
        bound = self.bound(inputs)
        bound = owned(bound) if copy else bound
        if self._executor is None:
            self.leave_to_others()
            self._executor = ThreadPoolExecutor(self.parallel_calls, thread_name_prefix="workbench-engine")
        loop = asyncio.get_running_loop()
        (result,) = await loop.run_in_executor(self._executor, self.run_bound, [bound], bound.size)
        return result

    def batcher(
        self,
        *,
        batch_size: int | None = None,
        max_wait_ms: float | None = 2.0,
        pending: int | None = None,
        copy: bool = True,
    ) -> Batcher:
        """Return what joins the calls of several threads into larger ones; see :class:`Batcher`."""
        return Batcher(self, batch_size=batch_size, max_wait_ms=max_wait_ms, pending=pending, copy=copy)

    def stream(
        self,
        items: Iterable[Any],
        *,
        batch_size: int | None = None,
        max_wait_ms: float | None = None,
        prefetch: int = 4,
        copy: bool = True,
    ) -> Iterator[InferenceResult]:
        """Yield a result for each of ``items``, in their order, while further ones are read and run.

        As long as items come at once and results are taken at once, all runs on the thread that asks for results: a
        second one could only take the cores of the runtime. Where reading, or what is done with the results, takes
        more than 3 % of the time of the calls, reading goes on ahead on a thread of its own, and the calls on another
        one. torch's calls stay on the thread that asks: torch would keep a second set of workers for a thread of ours,
        and both would be slower (0.64 of the throughput, seen on two cores). On a GPU, the inputs of the next call
        travel there while it computes the one before; with ``streams``, as many calls run at once.

        Leaving early, by ``break`` or ``close()``, stops the reading, and waits up to 1 s for it: longer where a call
        runs, and a reader that still waits inside ``items`` after that ends with the next item.

        Parameters
        ----------
        items : iterable
            What :meth:`predict` takes, each with a leading batch dimension of any size.
        batch_size : int, optional
            Samples in one call; None: :attr:`call_size`.
        max_wait_ms : float, optional
            How long an item may wait for a full batch; None waits, and only the last call is smaller.
        prefetch : int
            Batches that are read ahead at most. Where results are taken slowly, reading stops after so many.
        copy : bool
            Copy each item as it is read, so that ``items`` may fill one buffer again and again, as a camera does; with
            False an item must stay as it is until its result is there.

        Raises
        ------
        ConfigError, InputError
            At once, where the arguments cannot be used; while iterating, where an item does not fit, after the results
            of those before it. What ``items`` raises is raised in its place too.

        Examples
        --------
        >>> for result in engine.stream(load_images(), batch_size=32):  # doctest: +SKIP
        ...     save(result.result)
        """
        return stream(self, items, batch_size=batch_size, max_wait_ms=max_wait_ms, prefetch=prefetch, copy=copy)

    def _drop_calls(self) -> None:
        """End the thread of awaited calls: those that have not begun find the engine disposed, and say so."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)  # cancelled futures would cancel the tasks that wait for them
