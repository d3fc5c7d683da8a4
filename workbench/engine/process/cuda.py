"""Claims on torch's process-wide state for CUDA, restored with the last claim: TF32 switches, and memory limits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import torch

MIB = 2**20
_lock = threading.Lock()
_claims: set[Tf32Claim] = set()
_restore: Callable[[], None] | None = None
_limits: dict[str, dict[MemoryLimit, float]] = {}
_fractions: dict[str, float] = {}
"""Original limits of torch's allocator by device."""


class Tf32Claim:
    """One engine's claim on TF32 for float32 products and convolutions on CUDA devices.

    Torch's default is mixed: products in float32, convolutions in TF32. Each engine calls :meth:`apply` before it runs.
    The last release restores the state before the first claim.
    """

    def __init__(self, enabled: bool) -> None:
        global _restore
        self.enabled = enabled
        with _lock:
            if not _claims:
                _restore = _saved_switches()
            _claims.add(self)
        self.apply()

    def apply(self) -> None:
        if _legacy_switches() != (self.enabled, self.enabled):
            # The legacy switches set the new ones (fp32_precision) with them. The other way round they disagree, and
            # reading a legacy one, as Inductor's convolutions do, is an error (torch 2.13).
            torch.backends.cuda.matmul.allow_tf32 = self.enabled
            torch.backends.cudnn.allow_tf32 = self.enabled

    def release(self) -> None:
        """Release the claim; may be called twice."""
        global _restore
        with _lock:
            if self not in _claims:
                return
            _claims.discard(self)
            if not _claims and _restore is not None:
                _restore()
                _restore = None


def _saved_switches() -> Callable[[], None]:
    """Return a function that restores the legacy and the new switches."""
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    parts = (products, convolutions.conv, convolutions.rnn)
    legacy, new = _legacy_switches(), [part.fp32_precision for part in parts]

    def restore() -> None:
        for part, enabled in zip((products, convolutions), legacy, strict=True):
            if enabled is not None:
                part.allow_tf32 = enabled
        for part, value in zip(parts, new, strict=True):
            if part.fp32_precision != value:
                part.fp32_precision = value

    return restore


def _legacy_switches() -> tuple[bool | None, bool | None]:
    """Return the legacy switches; None for one that cannot be read, because a new one was set."""
    return _read(torch.backends.cuda.matmul), _read(torch.backends.cudnn)


def _read(part: Any) -> bool | None:
    with contextlib.suppress(RuntimeError):
        return bool(part.allow_tf32)
    return None


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
            if device not in _limits:
                _fractions[device] = cuda.get_per_process_memory_fraction(device)
            claims = _limits.setdefault(device, {})
            claims[self] = min(1.0, limit_mib / total)
            cuda.set_per_process_memory_fraction(min(claims.values()), device)

    def release(self) -> None:
        """Release the limit; may be called twice."""
        with _lock:
            claims = _limits.get(self._device, {})
            if claims.pop(self, None) is None:
                return
            if not claims:
                del _limits[self._device]
            fraction = min(claims.values(), default=_fractions[self._device])
            self._cuda.set_per_process_memory_fraction(fraction, self._device)
