"""Transfer batches to and from a CUDA device: pinned host memory, copies on one stream, computation on another.

Between :meth:`CudaPipe.begin` and :meth:`CudaPipe.finish` of a call the host may begin the next one, whose inputs
travel to the device meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench.artifact.reference import Arrays
from workbench.engine.backends.base import copy_into
from workbench.engine.backends.cuda.memory import PeakMemory
from workbench.engine.binding.buffers import Array, BufferPool

Compute = Callable[[list[Tensor]], Any]
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


class CudaPipe:
    """Transfers and calls of one engine on a device; ``compute`` runs the model on the current stream.

    ``limit_mib`` limits unused pinned memory. ``peak`` was made before the model moved to the device. ``cuda`` and
    ``make`` (the allocator of pinned memory) are fakes in tests.
    """

    def __init__(
        self,
        compute: Compute,
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
        """Wait for a call; return its outputs, and the seconds of copying and of waiting for the previous call.

        With ``into`` the outputs are written there.
        """
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
        """Free the device memory that torch caches."""
        with contextlib.suppress(Exception):  # as above
            self._cuda.synchronize(self._device)
            self._cuda.empty_cache()

    def close(self) -> None:
        """Free the pinned memory."""
        self.pool.clear()
        self._marks.clear()
