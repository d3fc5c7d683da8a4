"""Systems under test: run LoadGen's queries on the issuing thread or in a batcher, without raising into LoadGen."""

from __future__ import annotations

import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from workbench.measure.loadgen.run import loadgen

_POLL_S = 0.05
"""Poll interval for interrupts while waiting for the last results."""


class LoadGenSut(ABC):
    """A LoadGen SUT; the first error ends the work, not the test."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._began = self._ended = 0.0
        module = loadgen()
        self._response, self._report = module.QuerySampleResponse, module.QuerySamplesComplete

    @abstractmethod
    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Run a query: an id and an index for each sample. Never raises."""

    @abstractmethod
    def flush(self) -> None:
        """Finish pending queries after the last one. Never raises."""

    @property
    def seconds(self) -> float:
        """Seconds from the first query to the last completion."""
        return self._ended - self._began

    def begin(self) -> None:
        """Record the time of the first query."""
        self._began = self._began or time.perf_counter()

    def fail(self, error: BaseException) -> None:
        """Store the first error; further queries are completed without work."""
        if self.error is None:
            self.error = error

    def interrupt(self, *_: object) -> None:
        """Handle SIGINT."""
        self.fail(KeyboardInterrupt())

    def complete(self, ids: Sequence[int]) -> None:
        """Report samples to LoadGen as complete."""
        response = self._response
        self._report([response(i, 0, 0) for i in ids])
        self._ended = time.perf_counter()


class DirectSut(LoadGenSut):
    """Runs queries on the thread that issues them.

    Parameters
    ----------
    call : function
        Runs the samples at some indices.
    part : int
        Samples of one call; larger queries run in parts.
    """

    def __init__(self, call: Callable[[list[int]], object], *, part: int) -> None:
        super().__init__()
        self._call, self._part = call, part

    def issue(self, ids: list[int], indices: list[int]) -> None:
        done = 0
        try:
            self.begin()
            while done < len(ids) and self.error is None:
                end = done + self._part
                self._call(indices[done:end])
                self.complete(ids[done:end])
                done = end
        except BaseException as error:  # noqa: BLE001 - raised after the test
            self.fail(error)
        if done < len(ids):
            self.complete(ids[done:])

    def flush(self) -> None:
        """Return at once: no query is pending."""


class BatchedSut(LoadGenSut):
    """Submits queries of one sample to a batcher and reports them when their futures are done.

    After an error nothing is completed before the last query, so that LoadGen ends the test because of too many
    outstanding queries.

    Parameters
    ----------
    submit : function
        Takes the index of a sample and returns a future.
    cancel : function
        Cancels pending samples.
    """

    def __init__(self, submit: Callable[[int], Future[Any]], cancel: Callable[[], None]) -> None:
        super().__init__()
        self._submit, self._cancel = submit, cancel
        self._waiting: set[int] = set()
        self._change = threading.Condition()

    def issue(self, ids: list[int], indices: list[int]) -> None:
        try:
            self.begin()
            with self._change:
                self._waiting.update(ids)
            for sample, index in zip(ids, indices, strict=True):
                if self.error is None:
                    self._submit(index).add_done_callback(functools.partial(self._done, sample))
        except BaseException as error:  # noqa: BLE001 - raised after the test
            self.fail(error)

    def _done(self, sample: int, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fail(error)
        if self.error is None:
            self._complete_once([sample])

    def flush(self) -> None:
        try:
            with self._change:
                while self._waiting and self.error is None:
                    self._change.wait(_POLL_S)
            if self.error is not None:
                self._cancel()
                self._complete_once(list(self._waiting))
        except BaseException as error:  # noqa: BLE001 - raised after the test
            self.fail(error)
            self._complete_once(list(self._waiting))

    def _complete_once(self, samples: Sequence[int]) -> None:
        """Complete each pending sample once: an id is an address in LoadGen that is freed with the test."""
        with self._change:
            mine = [sample for sample in samples if sample in self._waiting]
            self._waiting.difference_update(mine)
            if not self._waiting:
                self._change.notify_all()
        if mine:
            self.complete(mine)
