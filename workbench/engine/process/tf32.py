"""torch's TF32 switches are those of the whole process: set here only, and put back when nobody needs them any more."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import torch

_lock = threading.Lock()
_claims: set[Tf32Claim] = set()
_original: _Switches | None = None


class Tf32Claim:
    """One engine's wish whether float32 products and convolutions on CUDA devices are computed in TF32.

    torch's own default is a mixture: products in float32, convolutions in TF32. While several engines are open each
    calls :meth:`apply` before it runs. When the last one is released all is as it was before the first was made.

    Examples
    --------
    >>> claim = Tf32Claim(True)
    >>> torch.backends.cuda.matmul.allow_tf32
    True
    >>> claim.release()
    """

    def __init__(self, wanted: bool) -> None:
        global _original
        self.wanted = wanted
        with _lock:
            if not _claims:
                _original = _Switches()
            _claims.add(self)
        self.apply()

    def apply(self) -> None:
        """Set the switches where they are others."""
        if _now() != (self.wanted, self.wanted):
            # The older names set the newer ones (fp32_precision) with them. The other way round they disagree, and
            # whoever reads the older ones gets an error (torch 2.13), Inductor's convolutions among them.
            torch.backends.cuda.matmul.allow_tf32 = self.wanted
            torch.backends.cudnn.allow_tf32 = self.wanted

    def release(self) -> None:
        """Give the claim up; may be called twice."""
        global _original
        with _lock:
            if self not in _claims:
                return
            _claims.discard(self)
            if not _claims and _original is not None:
                _original.restore()
                _original = None


class _Switches:
    """All of the switches as they were, by both kinds of names."""

    def __init__(self) -> None:
        self._legacy = _now()
        self._modern = [(part, part.fp32_precision) for part in _parts()]

    def restore(self) -> None:
        matmul, cudnn = self._legacy
        if matmul is not None:
            torch.backends.cuda.matmul.allow_tf32 = matmul
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn
        for part, value in self._modern:
            if part.fp32_precision != value:
                part.fp32_precision = value


def _parts() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn


def _now() -> tuple[bool | None, bool | None]:
    """Return the older switches; None for one that has no answer, since somebody set the newer ones beside it."""
    return _read(torch.backends.cuda.matmul), _read(torch.backends.cudnn)


def _read(part: Any) -> bool | None:
    with contextlib.suppress(RuntimeError):
        return bool(part.allow_tf32)
    return None
