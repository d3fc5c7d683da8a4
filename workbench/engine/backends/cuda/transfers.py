"""Batches through a CUDA device: pinned host memory, copies on one stream, computation on another.

A call is :meth:`CudaPipe.begin` and :meth:`CudaPipe.finish`. Between the two the host is free: it may begin the next
call, whose inputs travel to the device while it still computes the call before.
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
"""Takes input tensors on the device, and gives the flat output tensors."""


class Flight(NamedTuple):
    """A call that the device works on: what has to live until it is done, and the events that time it."""

    begun: float
    staged: Arrays
    tensors: list[Tensor]
    outputs: Arrays
    marks: Marks


class Marks:
    """Points in the work of a device, between which it measures the time itself."""

    def __init__(self, cuda: Any) -> None:
        self.uploaded, self.begun, self.ended, self.done = (cuda.Event(enable_timing=True) for _ in range(4))

    def spent(self) -> tuple[float, float]:
        """Return the seconds for which uploaded inputs waited for the device, and those that it computed."""
        return self.uploaded.elapsed_time(self.begun) / 1e3, self.begun.elapsed_time(self.ended) / 1e3


def pinned_array(shape: tuple[int, ...], dtype: str) -> Array:
    """Return an array in page-locked memory, which the device reads and writes without the CPU's help."""
    return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True).numpy()


class CudaPipe:
    """The way of a batch to a device and back, for one engine.

    Parameters
    ----------
    compute
        Runs the model; called with the stream of the computation as the current one.
    device
        ``"cuda:0"``.
    limit_mib
        How much pinned memory is kept while no call needs it.
    peak
        Watches the memory of the device; made before the model was moved there.
    cuda, make
        torch.cuda, and what allocates pinned memory; others in tests.
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
        """Load and warm up a model on the stream that runs it later; all of it is done at the end of the block."""
        self._cuda.synchronize(self._device)
        with self._cuda.stream(self._work):
            yield
        self._cuda.synchronize(self._device)
        if self.peak is not None:
            self.peak.loaded()

    def begin(self, inputs: Arrays) -> Flight:
        """Send one batch on its way, and return at once; the inputs may be overwritten then."""
        begun = time.perf_counter()
        marks = self._marks.pop() if self._marks else Marks(self._cuda)
        lent: Arrays = []
        before = None if self.peak is None else self.peak.start(inputs)
        try:
            staged = [self._stage(array, lent) for array in inputs]
            with self._cuda.stream(self._copies):
                # Held until the call is done: memory of one stream that another reads must not be given away before.
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
        """Wait for a call; return its outputs and the seconds spent on copies, and on waiting for the call before.

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
        """Run one batch; also return the seconds that were not computation."""
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
        """Wait for what is under way, so that nothing still reads the buffers that go back."""
        with contextlib.suppress(Exception):  # a device that failed says so again; what failed first is raised
            self._cuda.synchronize(self._device)
        for array in lent:
            self.pool.give(array)

    def free_memory(self) -> None:
        """Give back the device's memory that torch keeps without using it."""
        with contextlib.suppress(Exception):  # as above
            self._cuda.synchronize(self._device)
            self._cuda.empty_cache()

    def close(self) -> None:
        """Free the pinned memory."""
        self.pool.clear()
        self._marks.clear()
