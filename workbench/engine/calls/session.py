"""A loaded model and its calls: what an engine is between initialize and dispose. Imports no torch itself."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, InputError, first_line
from workbench.engine.backends.base import ModelSource, copy_into
from workbench.engine.calls.batching import Bound, Run, by_shape, one_by_one, pad, run_in_batches
from workbench.engine.calls.buffers import BufferPool
from workbench.engine.calls.call_limiter import AtOnce, Gate
from workbench.engine.calls.inputs import Binder, to_torch
from workbench.engine.calls.oom_backoff import BackingOff
from workbench.engine.calls.outputs import OutputBinder
from workbench.engine.calls.pipeline import Ahead
from workbench.engine.calls.result import InferenceResult, metrics_of
from workbench.engine.config import InferenceConfig
from workbench.export.io import tree_builder

CLOSED = "The engine was disposed. Make a new one."
FORKED = (
    "The engine was loaded before this process was forked, and the runtime's threads are not in it: a call would wait "
    'for ever. Make the engine in each process, or start processes with multiprocessing\'s "spawn".'
)
NOT_YET = "The engine is not initialized. Call engine.initialize(), or use it in a with block."


class Runner:
    """A session with the checks, buffers and gate around it; threads may share it."""

    def __init__(
        self,
        session: BackingOff,
        config: InferenceConfig,
        *,
        source: ModelSource,
        backend: str,
        note: Callable[[str], None],
        pool: BufferPool,
    ) -> None:
        self.session: BackingOff | None = session
        io, self._apart, self._process = source.io, source.apart, os.getpid()
        self.io, self.backend, self.pool = io, backend, pool
        self.fixed = io.batch
        self.call_size = io.batch or config.batch_size
        self.outputs = OutputBinder(io)
        self._device = session.device
        self._open = any(None in spec.shape for spec in io.inputs)
        narrow = getattr(session, "narrows_int64", False)
        hides = config.check_finite is None and (source.quantized or getattr(session, "hides_nan", False))
        self._bind = Binder(io, note, finite=bool(config.check_finite), no_nan=hides, narrow=narrow).bind
        self._build, self._moves = tree_builder(io.output_tree), io.moves_batch
        self.gate = Gate(getattr(session, "parallel_calls", 1))
        self.ahead = Ahead(self, session.pipe, self.gate) if session.pipe is not None and self._apart is None else None
        self._at_once = AtOnce(self.call, self.gate) if self.gate.width > 1 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the session says by now; running may add to it."""
        session = self.session
        return session.notes if session is not None else ()

    @property
    def _peak_mib(self) -> float | None:
        session = self.session
        return session.peak_memory_mib if session is not None else None

    def predict(self, inputs: Any, out: Any = None) -> InferenceResult:
        """Run one batch; see :meth:`OptimizedInferenceEngine.predict`."""
        start = time.perf_counter()
        arrays, size, as_torch = self._bind(inputs)
        into = None if out is None else self.outputs.bind(out, size, arrays)
        padded = self.fixed is not None and size != self.fixed
        if padded:
            arrays = self._fill(arrays, size)
        asked = time.perf_counter()
        with self.gate:
            begun = time.perf_counter()
            if into is None or padded:
                outputs, copied = self.call(arrays)
            else:
                outputs, copied = into, self._call_into(arrays, into)
            ended = time.perf_counter()
        if padded:
            outputs = [output[:size] for output in outputs]
        if into is not None:
            if padded:
                copy_into(into, outputs)
            result = out
        else:
            result = self._result(outputs, as_torch=as_torch)
        queued, computed, total = begun - asked, ended - begun - copied, time.perf_counter() - start
        return InferenceResult(
            result, metrics_of(queued, computed, total, size, self._device, self.backend, self._peak_mib)
        )

    def call(self, arrays: Arrays) -> tuple[Arrays, float]:
        """Call the runtime once; also return the seconds that it copied."""
        session = self.require_session()
        try:
            return session.run(arrays)
        except EngineError:
            raise
        except Exception as error:
            raise self.failed(error) from error

    def require_session(self) -> BackingOff:
        """Return the session, or raise EngineError where the engine was disposed meanwhile."""
        if self.session is None:
            raise EngineError(CLOSED)
        if os.getpid() != self._process:
            raise EngineError(FORKED)
        return self.session

    def _call_into(self, arrays: Arrays, into: Arrays) -> float:
        session = self.require_session()
        try:
            return session.run_into(arrays, into)
        except EngineError:
            raise
        except Exception as error:
            raise self.failed(error) from error

    def failed(self, error: Exception) -> EngineError:
        """Return what is raised where the runtime fails."""
        return EngineError(f"{self.backend} failed while it ran the model: {first_line(error)}")

    def _fill(self, arrays: Arrays, size: int) -> Arrays:
        fixed = self.call_size
        if self._apart is not None:
            raise InputError(
                f"The model takes {fixed} samples and was given {size}. These cannot be filled up or split: "
                f"{self._apart}."
            )
        if size > fixed:
            raise InputError(
                f"The model was exported for a fixed batch of {fixed} and was given {size} samples. "
                "Use predict_batch([x]), which splits them, or export it again for this batch size."
            )
        return pad(arrays, fixed)

    def bound(self, inputs: Any, position: int | None = None) -> Bound:
        """Return inputs checked and flattened; an error names their ``position`` among others."""
        asked = time.perf_counter()
        try:
            return Bound(*self._bind(inputs), asked)
        except InputError as error:
            if position is None:
                raise
            raise InputError(f"Item {position}: {error}") from error

    def run_bound(self, bound: Sequence[Bound], batch: int) -> list[InferenceResult]:
        """Run checked inputs in calls of ``batch`` samples (or the fixed batch), and return their results in order."""
        if not bound:
            return []
        if self._apart is not None:
            return self._each_alone(bound)
        with self.gate if self._at_once is None else contextlib.nullcontext():  # else each call enters by itself
            done = self._run_groups([item.arrays for item in bound], self.fixed or batch)
        return self.results(done, bound)

    def _each_alone(self, bound: Sequence[Bound]) -> list[InferenceResult]:
        """Run each input in a call of its own: joined with others, cut or padded, its outputs would be others."""
        with self.gate:
            done = []
            for item in bound:
                arrays = item.arrays
                if self.fixed is not None and item.size != self.fixed:
                    arrays = self._fill(arrays, item.size)
                begun = time.perf_counter()
                outputs, copied = self.call(arrays)
                done.append((outputs, [Run(begun, time.perf_counter(), copied)]))
        return self.results(done, bound)

    def results(self, done: Sequence[tuple[Arrays, list[Run]]], bound: Sequence[Bound]) -> list[InferenceResult]:
        """Return outputs in the model's structure, with the metrics of the calls that they came from."""
        results = []
        for (outputs, runs), item in zip(done, bound, strict=True):
            computed = sum([run.ended - run.begun - run.copied for run in runs])
            # until the last call that carried it: what its neighbors take after that is no part of it
            queued, total = runs[0].begun - item.asked, max(run.ended for run in runs) - item.asked
            metrics = metrics_of(queued, computed, total, item.size, self._device, self.backend, self._peak_mib)
            results.append(InferenceResult(self._result(outputs, as_torch=item.as_torch), metrics))
        return results

    def _result(self, outputs: Arrays, *, as_torch: bool) -> Any:
        """Return outputs in the model's structure, each with its batch where the model has it."""
        declared = self.io.as_declared(outputs) if self._moves else outputs
        return self._build(to_torch(declared) if as_torch else declared)

    def _run_groups(self, items: list[Arrays], batch: int) -> list[tuple[Arrays, list[Run]]]:
        """Run items in calls of ``batch`` samples; where the model leaves shapes open, those of each shape together."""
        groups = by_shape(items) if self._open else [list(range(len(items)))]
        done: list[tuple[Arrays, list[Run]]] = [([], [])] * len(items)
        several = self.ahead or self._at_once
        calls = one_by_one(self.call) if several is None else several.calls
        for group in groups:
            found = run_in_batches(
                [items[i] for i in group], batch, fixed=self.fixed is not None, calls=calls, pool=self.pool
            )
            for position, result in zip(group, found, strict=True):
                done[position] = result
        return done

    def close(self) -> None:
        """Free the model, once the calls that run have ended; calls that wait are told."""
        with self.gate.alone():
            session, self.session = self.session, None
            if session is not None:
                session.close()
        if self._at_once is not None:
            self._at_once.close()
        self.pool.clear()
