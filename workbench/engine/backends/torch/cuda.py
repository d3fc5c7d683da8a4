"""Calls on a CUDA device: transfers on a stream of their own, peak memory, and recorded graphs. Imports torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench.artifact.reference import Arrays
from workbench.core.errors import first_line
from workbench.engine.backends.base import copy_into
from workbench.engine.binding.buffers import MIB, Array, BufferPool

Call = Callable[[list[Tensor]], Any]
"""Maps input tensors on the device to flat output tensors."""


class Flight(NamedTuple):
    """A call in flight: memory that must live until it is done, and its events."""

    begun: float
    staged: Arrays
    tensors: list[Tensor]
    outputs: Arrays
    marks: Marks


class Marks:
    """Events of one call on the device."""

    def __init__(self, cuda: Any) -> None:
        self.uploaded, self.begun, self.ended, self.done = (cuda.Event(enable_timing=True) for _ in range(4))

    def spent(self) -> tuple[float, float]:
        """Return the seconds between upload and computation, and of the computation."""
        return self.uploaded.elapsed_time(self.begun) / 1e3, self.begun.elapsed_time(self.ended) / 1e3


def pinned_array(shape: tuple[int, ...], dtype: str) -> Array:
    """Return an array in page-locked memory, which the device accesses directly."""
    return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True).numpy()


WATCHED = 3
"""Measured calls of each shape: the first ones may tune and record, later ones are alike."""


class PeakMemory:
    """Peak device memory of one engine since loading: its weights, and the memory of its calls.

    Made before the model moves to the device. Read from torch's allocator in the first calls of each shape, which
    resets torch's own peak. Other engines do not count, unless they allocate at the same moment.
    """

    def __init__(self, device: str, *, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._before = cuda.memory_allocated(device)
        self._own = 0
        self._calls: dict[tuple[tuple[int, ...], ...], int] = {}
        self.mib = 0.0

    def loaded(self) -> None:
        self._own = max(0, self._cuda.memory_allocated(self._device) - self._before)
        self.mib = self._own / MIB

    def start(self, inputs: Arrays) -> int | None:
        """Begin to measure a call; return the argument of :meth:`stop`."""
        shapes = tuple(array.shape for array in inputs)
        calls = self._calls.get(shapes, 0)
        if calls == WATCHED:
            return None
        self._calls[shapes] = calls + 1
        self._cuda.reset_peak_memory_stats(self._device)
        return int(self._cuda.memory_allocated(self._device))

    def stop(self, before: int | None) -> None:
        """Record the peak; a call allocates all of its memory while it begins."""
        if before is not None:
            peak = self._own + self._cuda.max_memory_allocated(self._device) - before
            self.mib = max(self.mib, peak / MIB)


class CudaPipe:
    """Transfers and calls of one engine on a device; ``compute`` runs the model on the current stream.

    ``limit_mib`` limits unused pinned memory. ``peak`` was made before the model moved to the device. ``cuda`` and
    ``make`` (the allocator of pinned memory) are fakes in tests.
    """

    def __init__(
        self,
        compute: Call,
        device: str,
        *,
        limit_mib: float,
        peak: PeakMemory | None = None,
        cuda: Any = torch.cuda,
        make: Callable[[tuple[int, ...], str], Array] = pinned_array,
    ) -> None:
        self._compute, self._device, self._cuda = compute, device, cuda
        self._copies, self._work = cuda.Stream(device), cuda.Stream(device)
        self.pool = BufferPool(limit_mib=limit_mib, make=make)
        self.peak = peak
        self._marks: list[Marks] = []

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Load and warm up a model on the stream of computation; synchronize at the end of the block."""
        self._cuda.synchronize(self._device)
        with self._cuda.stream(self._work):
            yield
        self._cuda.synchronize(self._device)
        if self.peak is not None:
            self.peak.loaded()

    def begin(self, inputs: Arrays) -> Flight:
        """Begin a call and return at once; inputs may be overwritten then."""
        begun = time.perf_counter()
        marks = self._marks.pop() if self._marks else Marks(self._cuda)
        lent: Arrays = []
        before = None if self.peak is None else self.peak.start(inputs)
        try:
            staged = [self._stage(array, lent) for array in inputs]
            with self._cuda.stream(self._copies):
                # Kept until the call is done: memory of one stream that another reads must not be freed before.
                tensors = [tensor.to(self._device, non_blocking=True) for tensor in staged]
                marks.uploaded.record(self._copies)
            with self._cuda.stream(self._work):
                self._work.wait_event(marks.uploaded)
                marks.begun.record(self._work)
                leaves = self._compute(tensors)
                marks.ended.record(self._work)
                outputs = [self._download(leaf, lent) for leaf in leaves]
                marks.done.record(self._work)
        except BaseException:
            self._give_up(lent)
            raise
        if self.peak is not None:
            self.peak.stop(before)
        return Flight(begun, lent[: len(inputs)], tensors, outputs, marks)

    def finish(self, flight: Flight, into: Arrays | None = None) -> tuple[Arrays, float, float]:
        """Wait for a call; return its outputs (in ``into``), and the seconds of copying and of waiting for others."""
        flight.marks.done.synchronize()
        outputs = [np.empty_like(array) for array in flight.outputs] if into is None else into
        copy_into(outputs, flight.outputs)
        waited, computed = flight.marks.spent()
        for array in (*flight.staged, *flight.outputs):
            self.pool.give(array)
        self._marks.append(flight.marks)
        return outputs, max(0.0, time.perf_counter() - flight.begun - computed - waited), waited

    def run(self, inputs: Arrays, into: Arrays | None = None) -> tuple[Arrays, float]:
        """Run one batch; also return the seconds outside of computation."""
        outputs, copied, waited = self.finish(self.begin(inputs), into)
        return outputs, copied + waited

    def _stage(self, array: Array, lent: Arrays) -> Tensor:
        buffer = self.pool.take(array.shape, array.dtype.name)
        lent.append(buffer)
        np.copyto(buffer, array)
        return torch.from_numpy(buffer)

    def _download(self, leaf: Tensor, lent: Arrays) -> Array:
        buffer = self.pool.take(tuple(leaf.shape), str(leaf.dtype).removeprefix("torch."))
        lent.append(buffer)
        torch.from_numpy(buffer).copy_(leaf.detach(), non_blocking=True)
        return buffer

    def _give_up(self, lent: Arrays) -> None:
        """Synchronize, so that nothing reads the returned buffers."""
        with contextlib.suppress(Exception):  # the first error is raised; a failed device raises again
            self._cuda.synchronize(self._device)
        for array in lent:
            self.pool.give(array)

    def free_memory(self) -> None:
        with contextlib.suppress(Exception):  # as above
            self._cuda.synchronize(self._device)
            self._cuda.empty_cache()

    def close(self) -> None:
        self.pool.clear()
        self._marks.clear()


GRAPHS = 4
"""Number of recorded input shapes; each has its own memory for inputs and outputs."""

ONLY_CUDA = "cuda_graph=True has no effect: graphs are recorded on CUDA devices, and this runs on the CPU"
WARM_UP = 3

_Key = tuple[tuple[int, ...], ...]


class RecordedGraph(NamedTuple):
    """A graph with its input and output tensors."""

    graph: Any
    inputs: list[Tensor]
    outputs: list[Tensor]


class GraphedCall:
    """Call a model by recorded graphs: one for each shape that comes twice, up to :data:`GRAPHS`.

    Other shapes, and models that cannot be recorded (``note`` gets the reason), run without graphs. The next call
    overwrites the outputs: copy them on the same stream before. ``cuda`` is torch.cuda, or a fake in tests.
    """

    def __init__(self, call: Call, device: str, *, note: Callable[[str], None], cuda: Any = torch.cuda) -> None:
        self._call, self._device, self._note, self._cuda = call, device, note, cuda
        self._side = cuda.Stream(device)
        # One pool for all graphs: they never overlap, and outputs are copied before the next one runs.
        self._pool = cuda.graph_pool_handle()
        self._called: set[_Key] = set()
        self._graphs: dict[_Key, RecordedGraph] = {}
        self._failed = False

    def __call__(self, tensors: list[Tensor]) -> Any:
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        recorded = self._graphs.get(key)
        if recorded is None and key in self._called and len(self._graphs) < GRAPHS and not self._failed:
            recorded = self._record(key, tensors)
        self._called.add(key)
        if recorded is None:
            return self._call(tensors)
        for static, tensor in zip(recorded.inputs, tensors, strict=True):
            static.copy_(tensor, non_blocking=True)
        recorded.graph.replay()
        return recorded.outputs

    def _record(self, key: _Key, tensors: list[Tensor]) -> RecordedGraph | None:
        cuda, static = self._cuda, [tensor.clone() for tensor in tensors]
        try:
            current = cuda.current_stream(self._device)
            self._side.wait_stream(current)
            with cuda.stream(self._side):
                for _ in range(WARM_UP):
                    self._call(static)
            current.wait_stream(self._side)
            graph = cuda.CUDAGraph()
            # Only this thread is restricted, because other threads may allocate meanwhile.
            with cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"):
                outputs = list(self._call(static))
        except Exception as error:  # noqa: BLE001 - such a model runs without graphs
            self._failed = True
            self._note(
                f"cuda_graph=True: the calls of this model cannot be recorded ({first_line(error).rstrip('.')}); "
                "running without graphs"
            )
        else:
            self._graphs[key] = RecordedGraph(graph, static, outputs)
            return self._graphs[key]
        with contextlib.suppress(Exception):  # the next call raises the error
            cuda.synchronize(self._device)
        return None
