"""Interleaved timing of any number of calls in this process: engine settings, batching methods, custom loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.core.checks import given, require_callable, require_int, require_nonnegative, require_positive
from workbench.core.errors import ConfigError
from workbench.core.format.speedup import SpeedupText, speedup_text
from workbench.core.stats import bootstrap_median
from workbench.timing.blocks import Block
from workbench.timing.interleave import BLOCK_S, CallArm, EventArm, check_rounds, interleave
from workbench.timing.pace import pace_ratio
from workbench.timing.settling import SETTLE_S


@dataclass(frozen=True)
class CallTime:
    """One call: median latency with its 95 % CI in ms, samples per second, and speedup over the first call.

    ``ratio`` is the first call's latency over this one's, ``ratio_low`` and ``ratio_high`` are its 95 % CI.

    Examples
    --------
    >>> print(CallTime("pinned", 2.0, 1.9, 2.1, 500.0, 4.2, 3.9, 4.5))
    pinned: 2 ms (95 % CI 1.9-2.1), 4.2x speedup (95 % CI 3.9-4.5)
    """

    name: str
    ms: float
    low_ms: float
    high_ms: float
    per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float

    @property
    def speedup(self) -> SpeedupText:
        """The text of the speedup over the first call, with no stronger claim than its 95 % CI supports."""
        if self.ratio == self.ratio_low == self.ratio_high == 1:
            return SpeedupText("baseline", "1x")
        return speedup_text(self.ratio, self.ratio_low, self.ratio_high)

    def __str__(self) -> str:
        return f"{self.name}: {self.ms:.3g} ms (95 % CI {self.low_ms:.3g}-{self.high_ms:.3g}), {self.speedup}"


def time_calls(
    calls: Mapping[str, Callable[[], Any]],
    *,
    samples: int = 1,
    budget_s: float = 10.0,
    block_s: float = BLOCK_S,
    settle_s: float = SETTLE_S,
    rounds: tuple[int, int] = (6, 20),
    seed: int = 0,
    device: str | None = None,
) -> list[CallTime]:
    """Time calls interleaved; the first one is the reference of the speedups.

    Parameters
    ----------
    calls : mapping of name to function
        Functions without arguments; return values are dropped.
    samples : int
        Samples per call, for ``per_s``.
    budget_s : float
        No further round starts that would end later, once the minimum number of rounds is done.
    rounds : (int, int)
        Minimum and maximum rounds; a round is one block of ``block_s`` seconds per call, after up to ``settle_s``
        seconds of discarded settling calls.
    device : str, optional
        Device of asynchronous GPU calls, such as ``"cuda:0"``: blocks are timed by CUDA events. Leave it out for calls
        that wait for their result, as ``engine.predict`` does.

    Examples
    --------
    >>> for row in wb.time_calls({"eager": lambda: eager.predict(x), "fast": lambda: fast.predict(x)}, samples=32):
    ...     print(row)  # doctest: +SKIP
    """
    _check(calls, samples, rounds, budget_s=budget_s, block_s=block_s, settle_s=settle_s, seed=seed)
    arms: list[CallArm] | list[EventArm]
    if device is None:
        arms = [CallArm(name, call, settle_s=settle_s) for name, call in calls.items()]
    else:
        arms = [EventArm(name, call, device=device, settle_s=settle_s) for name, call in calls.items()]
    for arm in arms:
        arm.warm()
    blocks = interleave(arms, rounds=rounds, block_s=block_s, budget_s=budget_s, seed=seed).timed
    first = blocks[next(iter(calls))]
    return [_call_time(name, blocks[name], first, samples, seed) for name in calls]


def _check(calls: Any, samples: Any, rounds: Any, *, seed: Any, **seconds: Any) -> None:
    if not isinstance(calls, Mapping) or not calls or not all(isinstance(name, str) for name in calls):
        raise ConfigError(
            f"time_calls: calls must be a mapping of at least one name to a function, got {given(calls)}."
        )
    for name, call in calls.items():
        require_callable(f"time_calls: {name!r}", call, takes="no arguments")
    require_int("time_calls: samples", samples)
    require_int("time_calls: seed", seed, minimum=0)
    check_rounds("time_calls", rounds)
    for name, value in seconds.items():
        require = require_nonnegative if name == "settle_s" else require_positive
        require(f"time_calls: {name}", value, unit="seconds")


def _call_time(name: str, blocks: list[Block], first: list[Block], samples: int, seed: int) -> CallTime:
    kept = [block.undisturbed_ms for block in blocks if block.undisturbed_ms.size]
    medians = [float(np.median(ms)) for ms in kept or [block.ms for block in blocks]]
    ms, low, high = bootstrap_median(medians, seed=seed)
    pace = pace_ratio(first, blocks, seed=seed)
    return CallTime(name, ms, low, high, 1e3 * samples / ms, pace.ratio, pace.low, pace.high)
