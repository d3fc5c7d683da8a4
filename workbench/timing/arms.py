"""Arms of an interleaved timing: calls timed by the CPU's clock, or by the events of a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from workbench.core.errors import ConfigError
from workbench.timing.blocks import Block, run_block
from workbench.timing.settling import SETTLE_S, run_for, settle, wait_until_idle, warm_until_steady

_MAX_EVENT_CALLS = 10_000
_CALLS_IN_BLOCK = 5
_BLOCK_RANGE_S = (0.03, 0.25)


class Arm(Protocol):
    """One of the things to time: an engine in this process, or a process that holds one."""

    name: str

    def block(self, seconds: float) -> Block | Sequence[float]:
        """Discard settling calls, then return the calls of about ``seconds``, or only their ms."""


class CallArm:
    """An arm in this process: ``call`` runs one batch.

    ``settle_s`` is the longest time for which calls after a switch are discarded: until they are as fast as in the
    earlier blocks.
    """

    def __init__(self, name: str, call: Callable[[], object], *, settle_s: float = SETTLE_S) -> None:
        self.name, self.settle_s = name, settle_s
        self.warm_ms: float | None = None
        self._call = call
        self._medians_ms: list[float] = []

    def warm(self) -> None:
        """Run until the time per call is steady, and set ``warm_ms`` to it."""
        warm_until_steady(self._call)
        self.warm_ms = float(np.median(run_for(self._call, 0.0)))

    def block(self, seconds: float) -> Block:
        """Return the calls of about ``seconds``, at least one, after settling; leave this process idle."""
        usual = float(np.median(self._medians_ms)) if self._medians_ms else 0.0
        settle(self._call, self.settle_s, usual_ms=usual)
        block = run_block(self._call, seconds)
        self._medians_ms.append(float(np.median(block.ms)))
        wait_until_idle()
        return block


class EventArm:
    """An arm of asynchronous GPU calls, such as a module on tensors that are on the device.

    A block is queued as a whole and timed by two CUDA events, so that neither a wait after each call nor Python's
    launch overhead counts, as long as the GPU is the slower of the two. Time calls that wait for their result, such as
    ``engine.predict``, with :class:`CallArm`. ``call`` queues one call on the current stream of ``device``, such as
    ``"cuda:0"``; without a CUDA device, ConfigError is raised.
    """

    def __init__(
        self, name: str, call: Callable[[], object], *, device: str, settle_s: float = SETTLE_S, cuda: Any = None
    ) -> None:
        self.name, self.device, self.settle_s = name, device, settle_s
        self.warm_ms: float | None = None
        self._call = call
        self._cuda = _cuda(device) if cuda is None else cuda

    def warm(self) -> None:
        """Run until the time per synchronized call is steady; that time sets the length of the first block."""
        warm_until_steady(self._synchronized)
        begun = time.perf_counter()
        self._synchronized()
        self.warm_ms = (time.perf_counter() - begun) * 1e3

    def block(self, seconds: float) -> list[float]:
        """Return the mean ms per call of one block of about ``seconds``, after ``settle_s`` of discarded calls."""
        settle(self._synchronized, self.settle_s)
        count = min(max(1, math.ceil(seconds * 1e3 / max(self.warm_ms or 1.0, 1e-3))), _MAX_EVENT_CALLS)
        first, last = (self._cuda.Event(enable_timing=True) for _ in range(2))
        stream = self._cuda.current_stream(self.device)
        first.record(stream)
        for _ in range(count):
            self._call()
        last.record(stream)
        last.synchronize()
        self.warm_ms = float(first.elapsed_time(last)) / count
        return [self.warm_ms]

    def _synchronized(self) -> None:
        self._call()
        self._cuda.synchronize(self.device)


def block_seconds(arms: Sequence[CallArm]) -> float:
    """Return the length of a block: five calls of the slowest arm by its ``warm_ms``, between 30 and 250 ms.

    Short blocks leave room for more rounds, which narrow an interval; the median of a block needs a few calls.
    """
    slowest = max((arm.warm_ms or 0.0 for arm in arms), default=0.0)
    return min(max(_CALLS_IN_BLOCK * slowest / 1e3, _BLOCK_RANGE_S[0]), _BLOCK_RANGE_S[1])


def _cuda(device: str) -> Any:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"device={device!r} needs a CUDA device, and torch finds none. Leave device out to time by the CPU's clock."
        )
    return torch.cuda
