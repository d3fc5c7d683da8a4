"""Calls of a device that computes on its own: the next one is begun while it works on the one before.

For sessions with a ``pipe``: ``begin(inputs)`` returns at once, ``finish`` of what it gave waits for the outputs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError
from workbench.engine.calls.batch_queue import Gatherer
from workbench.engine.calls.batching import Bound, Run, by_shape, cut, join, pad, share_out
from workbench.engine.calls.call_limiter import Gate
from workbench.engine.calls.oom_backoff import GuardedPipe
from workbench.engine.calls.result import InferenceResult

if TYPE_CHECKING:
    from workbench.engine.calls.session import Runner

DEPTH = 2
"""Calls under way at once: one that computes, and one whose inputs travel. More would only hold more memory."""


class _Call(NamedTuple):
    """A call of several items that is under way."""

    flight: Any
    bound: Sequence[Bound]
    total: int
    batch: int


class Ahead:
    """Begins and ends the calls of one runner."""

    def __init__(self, runner: Runner, pipe: GuardedPipe, gate: Gate) -> None:
        self._runner, self._pipe, self._gate = runner, pipe, gate

    def calls(self, batches: Iterable[Arrays]) -> Iterator[tuple[Arrays, Run]]:
        """Run batches that are all there already, two under way at a time; the caller is in the gate."""
        under_way: deque[Any] = deque()
        try:
            for inputs in batches:
                under_way.append(self._begin(inputs))
                if len(under_way) == DEPTH:
                    yield self._finish(under_way.popleft())
            while under_way:
                yield self._finish(under_way.popleft())
        finally:
            self._abandon(under_way)

    def launch(self, bound: Sequence[Bound], batch: int) -> _Call | None:
        """Begin one call of several items; None where they do not fit into one."""
        items = [item.arrays for item in bound]
        total = sum(item.size for item in bound)
        size = self._runner.fixed or batch
        if total > size or len(by_shape(items)) > 1:
            return None
        with self._gate:
            joined, lent = join(items, self._runner.pool)
            try:
                flight = self._begin(pad(joined, size) if self._runner.fixed and total < size else joined)
            finally:
                for array in lent:
                    self._runner.pool.give(array)
        return _Call(flight, bound, total, size)

    def land(self, call: _Call) -> list[InferenceResult]:
        """Wait for a call, and return the result of each of its items."""
        outputs, run = self._finish(call.flight)
        items = [item.arrays for item in call.bound]
        done = share_out(items, cut(outputs, call.total), [run], call.batch)
        return self._runner.results(done, call.bound)

    def drop(self, calls: Iterable[_Call]) -> None:
        """Wait for calls whose results nobody takes, so that their memory goes back."""
        self._abandon([call.flight for call in calls])

    def _begin(self, inputs: Arrays) -> Any:
        self._runner.require_session()
        try:
            return self._pipe.begin(inputs)
        except EngineError:
            raise
        except Exception as error:
            raise self._runner.failed(error) from error

    def _finish(self, flight: Any) -> tuple[Arrays, Run]:
        try:
            outputs, copied, waited = self._pipe.finish(flight)
        except Exception as error:
            raise self._runner.failed(error) from error
        return outputs, Run(flight.begun + waited, time.perf_counter(), copied)

    def _abandon(self, flights: Iterable[Any]) -> None:
        for flight in flights:
            try:
                self._finish(flight)
            except EngineError:  # what stopped the others is raised already
                return


def run_line(runner: Runner, line: Gatherer[Bound], batch: int) -> Iterator[list[InferenceResult]]:
    """Run what a line hands out, group by group; see :meth:`OptimizedInferenceEngine.stream`.

    A group is begun before the results of the one before are asked for, but only where it is there already: nobody
    waits for an input to get the results of earlier ones.
    """
    ahead = runner.ahead
    if ahead is None:
        while group := line.take():
            yield runner.run_bound(group, batch)
        return
    under_way: deque[_Call] = deque()
    failed: EngineError | None = None
    try:
        while failed is None:
            if len(under_way) == DEPTH or (under_way and not line.ready):
                yield ahead.land(under_way.popleft())
                continue
            group = line.take()
            if not group:
                break
            try:
                call = ahead.launch(group, batch)
            except EngineError as error:  # raised behind the results of those before
                failed = error
                continue
            if call is not None:
                under_way.append(call)
                continue
            while under_way:
                yield ahead.land(under_way.popleft())
            yield runner.run_bound(group, batch)
        while under_way:
            yield ahead.land(under_way.popleft())
    finally:
        ahead.drop(under_way)
    if failed is not None:
        raise failed
