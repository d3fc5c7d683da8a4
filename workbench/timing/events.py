"""Timing what a GPU works off on its own: two events around a block of calls, and one wait at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from workbench.core.errors import ConfigError
from workbench.timing.blocks_in_turns import warm_until_steady
from workbench.timing.interleave import SETTLE_S

_MOST_CALLS = 10_000


class EventArm:
    """An arm whose calls return before the GPU has computed them, such as a module on tensors that are there already.

    A block is ordered as a whole and timed by the GPU's own clock, so that neither a wait after each call nor the time
    that Python takes to order the next one is counted, as long as the GPU is the slower of the two. Calls that wait for
    their result by themselves, as ``engine.predict`` does, are timed by :class:`CallArm`.

    Parameters
    ----------
    name : str
    call : function
        Orders one call on the current stream of ``device``.
    device : str
        Such as ``"cuda:0"``.

    Raises
    ------
    ConfigError
        If torch finds no CUDA device.
    """

    def __init__(
        self, name: str, call: Callable[[], object], *, device: str, settle_s: float = SETTLE_S, cuda: Any = None
    ) -> None:
        self.name, self.device = name, device
        self.settle_s = settle_s
        self.warm_ms: float | None = None
        self._call = call
        self._cuda = _cuda(device) if cuda is None else cuda

    def warm(self) -> None:
        """Run until the time per call, each waited for, is steady; that time is the first guess of a block's length."""
        warm_until_steady(self._waited)
        begun = time.perf_counter()
        self._waited()
        self.warm_ms = (time.perf_counter() - begun) * 1e3

    def block(self, seconds: float) -> list[float]:
        """Return the mean ms per call of one block of about ``seconds``, after ``settle_s`` that is not counted."""
        end = time.perf_counter() + self.settle_s
        while time.perf_counter() < end:
            self._waited()
        count = min(max(1, math.ceil(seconds * 1e3 / max(self.warm_ms or 1.0, 1e-3))), _MOST_CALLS)
        first, last = (self._cuda.Event(enable_timing=True) for _ in range(2))
        stream = self._cuda.current_stream(self.device)
        first.record(stream)
        for _ in range(count):
            self._call()
        last.record(stream)
        last.synchronize()
        self.warm_ms = float(first.elapsed_time(last)) / count
        return [self.warm_ms]

    def _waited(self) -> None:
        self._call()
        self._cuda.synchronize(self.device)


def _cuda(device: str) -> Any:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"device={device!r} times by the events of a GPU, and torch finds none here. Leave device out: calls are "
            "then timed by the clock of the CPU."
        )
    return torch.cuda
