"""Device memory: the most that an engine held, and how much torch may take of it.

The limit is one for the whole process and device: set and put back here only.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from workbench.artifact.reference import Arrays

MIB = 2**20

WATCHED = 3
"""Calls of each shape that are watched: the first may still tune and record, and from then on all are alike."""

_lock = threading.Lock()
_claims: dict[str, dict[MemoryLimit, float]] = {}
_originals: dict[str, float] = {}


class MemoryLimit:
    """One engine's limit on what torch's allocator takes of a device, for all engines of this process together.

    While several engines have limits the smallest holds. When the last one is released the limit is what it was before
    the first was made. What does not go through the allocator (CUDA's own some hundred MiB, other runtimes) is beyond
    it.

    Parameters
    ----------
    limit_mib
        More than the device has is no limit, and said in ``notes``.
    device
        ``"cuda:0"``.
    cuda
        torch.cuda; another in tests.
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
        """Give the limit up; may be called twice."""
        with _lock:
            claims = _claims.get(self._device, {})
            if claims.pop(self, None) is None:
                return
            if not claims:
                del _claims[self._device]
            fraction = min(claims.values(), default=_originals[self._device])
            self._cuda.set_per_process_memory_fraction(fraction, self._device)


class PeakMemory:
    """The most device memory that one engine held since it was loaded: its weights, and what its calls took on top.

    Measured in torch's allocator, in the first calls of each shape; torch's own peak is reset for that. Memory of other
    engines is not counted, unless they allocate at the same moment.

    Parameters
    ----------
    device
        ``"cuda:0"``; the model is moved there afterwards.
    cuda
        torch.cuda; another in tests.
    """

    def __init__(self, device: str, *, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._before = cuda.memory_allocated(device)
        self._own = 0
        self._seen: dict[tuple[tuple[int, ...], ...], int] = {}
        self.mib = 0.0

    def loaded(self) -> None:
        """Take what is held more than before as the engine's own at rest."""
        self._own = max(0, self._cuda.memory_allocated(self._device) - self._before)
        self.mib = self._own / MIB

    def start(self, inputs: Arrays) -> int | None:
        """Begin to watch a call; return what :meth:`stop` takes."""
        shapes = tuple(array.shape for array in inputs)
        seen = self._seen.get(shapes, 0)
        if seen == WATCHED:
            return None
        self._seen[shapes] = seen + 1
        self._cuda.reset_peak_memory_stats(self._device)
        return int(self._cuda.memory_allocated(self._device))

    def stop(self, before: int | None) -> None:
        """End watching: all that a call needs is allocated while it is begun."""
        if before is not None:
            peak = self._own + self._cuda.max_memory_allocated(self._device) - before
            self.mib = max(self.mib, peak / MIB)
