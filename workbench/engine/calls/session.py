"""Checked calls of a loaded model: the state of an engine between initialize and dispose. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, InputError, first_line
from workbench.engine.backends import get_backend
from workbench.engine.backends.base import ModelSource, copy_into
from workbench.engine.backends.oom_backoff import OomBackoffSession
from workbench.engine.binding.binders import Binder, OutputBinder, to_torch
from workbench.engine.binding.buffers import BufferPool
from workbench.engine.calls.batch_queue import BatchQueue
from workbench.engine.calls.batching import (
    BoundInputs,
    InferenceResult,
    ItemOutputs,
    by_shape,
    metrics_of,
    pad,
    run_in_batches,
    timed_call,
)
from workbench.engine.calls.parallel import DEPTH, CallLimiter, CallPipeline, JoinedCall, ParallelCalls
from workbench.engine.config import InferenceConfig
from workbench.export.io import tree_builder

R = TypeVar("R")

CLOSED = "The engine was disposed. Make a new one."
FORKED = (
    "The engine was loaded before this process was forked, and the runtime's threads are missing here. "
    'Make the engine in each process, or start processes with multiprocessing\'s "spawn".'
)
NOT_YET = "The engine is not initialized. Call engine.initialize(), or use it in a with block."


class EngineSession:
    """A loaded model with input checks, buffers and a call limit; threads may share it."""

    def __init__(
        self,
        model: OomBackoffSession,
        config: InferenceConfig,
        *,
        source: ModelSource,
        backend: str,
        note: Callable[[str], None],
        pool: BufferPool,
    ) -> None:
        self.model: OomBackoffSession | None = model
        io, self._unbatchable, self._process = source.io, source.unbatchable, os.getpid()
        self.io, self.backend, self.pool = io, backend, pool
        self.fixed = io.batch
        self.call_size = io.batch or config.batch_size
        self.outputs = OutputBinder(io)
        self._device = model.device
        self._open = any(None in spec.shape for spec in io.inputs)
        narrow = getattr(model, "narrows_int64", False)
        hides = config.check_finite is None and (source.quantized or getattr(model, "hides_nan", False))
        self._bind = Binder(io, note, finite=bool(config.check_finite), no_nan=hides, narrow=narrow).bind
        self._build, self._moves = tree_builder(io.output_tree), io.moves_batch
        self._timed_call = functools.partial(timed_call, self.call)
        self._limiter = CallLimiter(getattr(model, "parallel_calls", 1))
        self._pipeline: CallPipeline | None = None
        if model.pipe is not None and self._unbatchable is None:
            guards = self.require_model, self._guarded
            self._pipeline = CallPipeline(model.pipe, self._limiter, pool, *guards, fixed=io.batch)
        self._parallel = ParallelCalls(self.call, self._limiter) if self.parallel_calls > 1 else None

    @property
    def notes(self) -> tuple[str, ...]:
        return model.notes if (model := self.model) is not None else ()

    @property
    def parallel_calls(self) -> int:
        """Number of calls that run at once; further threads wait."""
        return self._limiter.width

    @property
    def overlaps(self) -> bool:
        """True if a call can begin before the previous one has ended: on a GPU, and with streams."""
        return self._pipeline is not None or self.parallel_calls > 1

    @property
    def prefers_one_thread(self) -> bool:
        """True if the runtime's workers belong to the calling thread, as torch's do."""
        return get_backend(self.backend).capabilities.threads == "process"

    def release_workers(self) -> None:
        """End the calling thread's workers of torch, because other threads will call the engine."""
        if self.prefers_one_thread:
            from workbench.engine.process.threads import release_workers

            release_workers()

    @property
    def _peak_mib(self) -> float | None:
        return model.peak_memory_mib if (model := self.model) is not None else None

    def predict(self, inputs: Any, out: Any = None) -> InferenceResult:
        """Run one batch; see :meth:`OptimizedInferenceEngine.predict`."""
        start = time.perf_counter()
        arrays, size, as_torch = self._bind(inputs)
        buffers = None if out is None else self.outputs.bind(out, size, arrays)
        padded = self.fixed is not None and size != self.fixed
        if padded:
            arrays = self._pad(arrays, size)
        requested = time.perf_counter()
        with self._limiter:
            begun = time.perf_counter()
            if buffers is None or padded:
                outputs, copied = self.call(arrays)
            else:
                outputs, copied = buffers, self._guarded(self.require_model().run_into, arrays, buffers)
            ended = time.perf_counter()
        if padded:
            outputs = [output[:size] for output in outputs]
            if buffers is not None:
                copy_into(buffers, outputs)
        result = out if buffers is not None else self._result(outputs, as_torch=as_torch)
        queued, computed, total = begun - requested, ended - begun - copied, time.perf_counter() - start
        return InferenceResult(
            result, metrics_of(queued, computed, total, size, self._device, self.backend, self._peak_mib)
        )

    def call(self, arrays: Arrays) -> tuple[Arrays, float]:
        """Call the runtime once; also return the seconds of copying."""
        return self._guarded(self.require_model().run, arrays)

    def _guarded(self, call: Callable[..., R], *arguments: Any) -> R:
        """Call the runtime; raise EngineError for its errors."""
        try:
            return call(*arguments)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{self.backend} failed while it ran the model: {first_line(error)}") from error

    def require_model(self) -> OomBackoffSession:
        """Return the loaded model; raise EngineError if it is closed, or was loaded before a fork."""
        if self.model is None:
            raise EngineError(CLOSED)
        if os.getpid() != self._process:
            raise EngineError(FORKED)
        return self.model

    def _pad(self, arrays: Arrays, size: int) -> Arrays:
        fixed = self.call_size
        if self._unbatchable is not None:
            raise InputError(
                f"The model takes exactly {fixed} samples, got {size}. It cannot pad or split them: "
                f"{self._unbatchable}."
            )
        if size > fixed:
            raise InputError(
                f"The model was exported for a fixed batch of {fixed}, got {size} samples. "
                "Use predict_batch([x]), which splits them, or export it again for this batch size."
            )
        return pad(arrays, fixed)

    def bound(self, inputs: Any, position: int | None = None) -> BoundInputs:
        """Return checked, flattened inputs; errors name their ``position`` in a list."""
        requested = time.perf_counter()
        try:
            return BoundInputs(*self._bind(inputs), requested)
        except InputError as error:
            if position is None:
                raise
            raise InputError(f"Item {position}: {error}") from error

    def run_bound(self, items: Sequence[BoundInputs], batch: int) -> list[InferenceResult]:
        """Run checked inputs in calls of ``batch`` samples (or the fixed batch); return results in order."""
        if not items:
            return []
        if self._unbatchable is not None:
            return self._run_separately(items)
        with self._limiter if self._parallel is None else contextlib.nullcontext():  # else each call enters by itself
            outputs = self._run_groups([item.arrays for item in items], self.fixed or batch)
        return self.results(outputs, items)

    def run_queue(self, queue: BatchQueue[BoundInputs], batch: int) -> Iterator[list[InferenceResult]]:
        """Run the groups of a queue in calls of ``batch`` samples until it is closed.

        A group begins before the results of the previous one are taken, but only if it is ready: results never wait for
        further inputs.
        """
        pipeline = self._pipeline
        if pipeline is None:
            while group := queue.take():
                yield self.run_bound(group, batch)
            return
        flights: deque[tuple[JoinedCall, list[BoundInputs]]] = deque()

        def finish_first() -> list[InferenceResult]:
            call, items = flights.popleft()
            return self.results(pipeline.finish(call), items)

        failure: EngineError | None = None
        try:
            while failure is None:
                if len(flights) == DEPTH or (flights and not queue.ready):
                    yield finish_first()
                    continue
                group = queue.take()
                if not group:
                    break
                try:
                    call = pipeline.begin([item.arrays for item in group], batch)
                except EngineError as error:  # raised after the results of earlier groups
                    failure = error
                    continue
                if call is not None:
                    flights.append((call, group))
                    continue
                while flights:
                    yield finish_first()
                yield self.run_bound(group, batch)
            while flights:
                yield finish_first()
        finally:
            pipeline.abandon(call for call, _ in flights)
        if failure is not None:
            raise failure

    def _run_separately(self, items: Sequence[BoundInputs]) -> list[InferenceResult]:
        """Run each input in a call of its own, because joining or padding would change its outputs."""
        with self._limiter:
            arrays = [
                item.arrays if self.fixed in (None, item.size) else self._pad(item.arrays, item.size) for item in items
            ]
            outputs = [(leaves, [run]) for leaves, run in map(self._timed_call, arrays)]
        return self.results(outputs, items)

    def results(self, outputs: Sequence[ItemOutputs], items: Sequence[BoundInputs]) -> list[InferenceResult]:
        """Return outputs in the model's structure, with the metrics of the calls that carried them."""
        results = []
        for (leaves, calls), item in zip(outputs, items, strict=True):
            computed = sum([call.ended - call.begun - call.copied for call in calls])
            # Until the last of these calls ended: later calls carry other items.
            queued, total = calls[0].begun - item.requested, max(call.ended for call in calls) - item.requested
            metrics = metrics_of(queued, computed, total, item.size, self._device, self.backend, self._peak_mib)
            results.append(InferenceResult(self._result(leaves, as_torch=item.as_torch), metrics))
        return results

    def _result(self, outputs: Arrays, *, as_torch: bool) -> Any:
        declared = self.io.as_declared(outputs) if self._moves else outputs
        return self._build(to_torch(declared) if as_torch else declared)

    def _run_groups(self, items: list[Arrays], batch: int) -> list[ItemOutputs]:
        """Run items in calls of ``batch`` samples; items of different shapes never share a call."""
        groups = by_shape(items) if self._open else [list(range(len(items)))]
        done: list[ItemOutputs] = [([], [])] * len(items)
        concurrent = self._pipeline or self._parallel
        calls = functools.partial(map, self._timed_call) if concurrent is None else concurrent.calls
        for group in groups:
            outputs = run_in_batches(
                [items[i] for i in group], batch, fixed=self.fixed is not None, calls=calls, pool=self.pool
            )
            for position, result in zip(group, outputs, strict=True):
                done[position] = result
        return done

    def close(self) -> None:
        """Free the model after running calls; waiting calls raise EngineError."""
        with self._limiter.exclusive():
            model, self.model = self.model, None
            if model is not None:
                model.close()
        if self._parallel is not None:
            self._parallel.close()
        self.pool.clear()


GetSession = Callable[[], EngineSession]
"""Returns the current session of an engine: tuning replaces it, disposing makes this raise EngineError."""
