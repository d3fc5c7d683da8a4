"""Device memory: peak of one engine, and limits on torch's allocator.

The limit is one for the whole process and device: set and restored here only.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from workbench.artifact.reference import Arrays

MIB = 2**20

WATCHED = 3
"""Measured calls of each shape: the first ones may tune and record, later ones are alike."""

_lock = threading.Lock()
_claims: dict[str, dict[MemoryLimit, float]] = {}
_originals: dict[str, float] = {}


class MemoryLimit:
    """One engine's limit on torch's allocator, for all engines of this process together.

    The smallest limit of several engines holds; the last release restores the original. Memory outside of the allocator
    (CUDA's own, other runtimes) does not count. A limit above the memory of the device has no effect, with a note.
    """

    def __init__(self, limit_mib: float, device: str, *, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        total = cuda.get_device_properties(device).total_memory / MIB
        self.notes: tuple[str, ...] = ()
        if limit_mib > total:
            self.notes = (f"gpu_memory_limit_mib={limit_mib:g} is more than {device} has ({total:.0f}): no limit",)
        with _lock:
            if device not in _claims:
                _originals[device] = cuda.get_per_process_memory_fraction(device)
            claims = _claims.setdefault(device, {})
            claims[self] = min(1.0, limit_mib / total)
            cuda.set_per_process_memory_fraction(min(claims.values()), device)

    def release(self) -> None:
        """Release the limit; may be called twice."""
        with _lock:
            claims = _claims.get(self._device, {})
            if claims.pop(self, None) is None:
                return
            if not claims:
                del _claims[self._device]
            fraction = min(claims.values(), default=_originals[self._device])
            self._cuda.set_per_process_memory_fraction(fraction, self._device)


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
        """Record the memory of the loaded model."""
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
