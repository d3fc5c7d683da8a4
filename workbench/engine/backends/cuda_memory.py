"""How much device memory torch may take: one limit for the whole process and device, set and put back here only."""

from __future__ import annotations

import threading
from typing import Any

import torch

MIB = 2**20

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
