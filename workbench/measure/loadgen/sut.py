"""What answers LoadGen's queries, on the thread that issues them or later, and never raises into LoadGen."""

from __future__ import annotations

import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from workbench.measure.loadgen.test import loadgen

_LOOK_S = 0.05
"""How often the wait for the last answers looks whether it was interrupted."""


class System(ABC):
    """What answers LoadGen's queries; the first error ends the work, not the test."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._began = self._ended = 0.0
        module = loadgen()
        self._response, self._tell = module.QuerySampleResponse, module.QuerySamplesComplete

    @abstractmethod
    def issue(self, ids: list[int], indices: list[int]) -> None:
        """Take a query: an id for each sample, and its place in the samples. Never raises."""

    @abstractmethod
    def flush(self) -> None:
        """Hear that no further query comes. Never raises."""

    @property
    def seconds(self) -> float:
        """Seconds from the first query until the last answer."""
        return self._ended - self._began

    def begin(self) -> None:
        """Note when the first query comes."""
        self._began = self._began or time.perf_counter()

    def fail(self, error: BaseException) -> None:
        """Keep the first error: from now on queries are completed without work."""
        if self.error is None:
            self.error = error

    def interrupt(self, *_: object) -> None:
        """Take Ctrl-C."""
        self.fail(KeyboardInterrupt())

    def complete(self, ids: Sequence[int]) -> None:
        """Tell LoadGen that samples are done."""
        response = self._response
        self._tell([response(i, 0, 0) for i in ids])
        self._ended = time.perf_counter()


class Direct(System):
    """Answers on the thread that issues, which is the one that runs the test.

    Parameters
    ----------
    call : function
        Runs the samples at some places.
    part : int
        Samples of one call; a query with more is answered in parts.
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
        except BaseException as error:  # noqa: BLE001 - raised when the test has ended
            self.fail(error)
        if done < len(ids):
            self.complete(ids[done:])

    def flush(self) -> None:
        """Nothing waits."""


class Queued(System):
    """Hands queries of one sample to what answers later, and tells LoadGen when it has.

    After an error nothing is completed before the last query was issued: so LoadGen soon finds too many outstanding
    ones, and ends the test.

    Parameters
    ----------
    submit : function
        Takes the place of a sample, and returns a future at once.
    cancel : function
        Drops what waits.
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
                    self._submit(index).add_done_callback(functools.partial(self._answered, sample))
        except BaseException as error:  # noqa: BLE001 - raised when the test has ended
            self.fail(error)

    def _answered(self, sample: int, future: Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fail(error)
        if self.error is None:
            self._complete_once([sample])

    def flush(self) -> None:
        try:
            with self._change:
                while self._waiting and self.error is None:
                    self._change.wait(_LOOK_S)
            if self.error is not None:
                self._cancel()
                self._complete_once(list(self._waiting))
        except BaseException as error:  # noqa: BLE001 - raised when the test has ended
            self.fail(error)
            self._complete_once(list(self._waiting))

    def _complete_once(self, samples: Sequence[int]) -> None:
        """Complete what still waits: an id is an address in LoadGen that is freed with the test."""
        with self._change:
            mine = [sample for sample in samples if sample in self._waiting]
            self._waiting.difference_update(mine)
            if not self._waiting:
                self._change.notify_all()
        if mine:
            self.complete(mine)
