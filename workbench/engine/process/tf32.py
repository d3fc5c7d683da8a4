"""Claims on torch's process-wide TF32 switches: set before calls, restored with the last claim."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import torch

_lock = threading.Lock()
_claims: set[Tf32Claim] = set()
_original: _Switches | None = None


class Tf32Claim:
    """One engine's claim on TF32 for float32 products and convolutions on CUDA devices.

    Torch's default is mixed: products in float32, convolutions in TF32. Each engine calls :meth:`apply` before it runs.
    The last release restores the state before the first claim.
    """

    def __init__(self, enabled: bool) -> None:
        global _original
        self.enabled = enabled
        with _lock:
            if not _claims:
                _original = _Switches()
            _claims.add(self)
        self.apply()

    def apply(self) -> None:
        """Set the switches."""
        if _legacy_switches() != (self.enabled, self.enabled):
            # The legacy switches set the new ones (fp32_precision) with them. The other way round they disagree, and
            # reading a legacy one, as Inductor's convolutions do, is an error (torch 2.13).
            torch.backends.cuda.matmul.allow_tf32 = self.enabled
            torch.backends.cudnn.allow_tf32 = self.enabled

    def release(self) -> None:
        """Release the claim; may be called twice."""
        global _original
        with _lock:
            if self not in _claims:
                return
            _claims.discard(self)
            if not _claims and _original is not None:
                _original.restore()
                _original = None


class _Switches:
    """Saved state of the legacy and the new switches."""

    def __init__(self) -> None:
        cudnn: Any = torch.backends.cudnn
        self._legacy = _legacy_switches()
        self._new = [(part, part.fp32_precision) for part in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)]

    def restore(self) -> None:
        matmul, cudnn = self._legacy
        if matmul is not None:
            torch.backends.cuda.matmul.allow_tf32 = matmul
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn
        for part, value in self._new:
            if part.fp32_precision != value:
                part.fp32_precision = value


def _legacy_switches() -> tuple[bool | None, bool | None]:
    """Return the legacy switches; None for one that cannot be read, because a new one was set."""
    return _read(torch.backends.cuda.matmul), _read(torch.backends.cudnn)


def _read(part: Any) -> bool | None:
    with contextlib.suppress(RuntimeError):
        return bool(part.allow_tf32)
    return None
