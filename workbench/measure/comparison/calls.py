"""Any number of calls timed side by side in this process: settings of an engine, ways to feed it, a loop by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.core.checks import given, require_callable, require_int
from workbench.core.errors import ConfigError
from workbench.core.stats import bootstrap_median
from workbench.timing.arms import CallArm, EventArm
from workbench.timing.blocks import Block
from workbench.timing.interleave import BLOCK_S, check_rounds, interleave
from workbench.timing.pace import pace_ratio
from workbench.timing.settling import SETTLE_S


@dataclass(frozen=True)
class CallTime:
    """One call: median over blocks with its interval in ms, samples per second, and how it stands to the first.

    ``ratio`` is the first call's time over this one's (above 1: a lower latency), ``ratio_low`` and
    ``ratio_high`` bound it at 95 %.
    """

    name: str
    ms: float
    low_ms: float
    high_ms: float
    per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float

    def __str__(self) -> str:
        return f"{self.name}: {self.ms:.3g} ms, {self.ratio:.2f}x ({self.ratio_low:.2f} to {self.ratio_high:.2f})"


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
    """Time calls in blocks that alternate in random order; the first one is what the others are held against.

    Parameters
    ----------
    calls : mapping of name to function
        Each is called without arguments; what it returns is dropped.
    samples : int
        Samples that one call carries, for ``per_s``.
    budget_s : float
        No further round starts after this many seconds, once the least number of rounds is done.
    rounds : (int, int)
        Least and most rounds; a round has one block of ``block_s`` seconds of every call, after ``settle_s`` seconds
        that are not counted.
    device : str, optional
        Of calls that a GPU works off on its own, such as ``"cuda:0"``: blocks are timed by its events. Leave it out for
        calls that wait for their result, as ``engine.predict`` does.

    Raises
    ------
    ConfigError
        If there is nothing to time, or a number is out of range.

    Examples
    --------
    >>> for row in wb.time_calls({"eager": lambda: eager.predict(x), "fast": lambda: fast.predict(x)}, samples=32):
    ...     print(row)  # doctest: +SKIP
    """
    _check(calls, samples, rounds, budget_s=budget_s, block_s=block_s, settle_s=settle_s, seed=seed)
    arms: list[CallArm | EventArm] = [
        CallArm(name, call, settle_s=settle_s)
        if device is None
        else EventArm(name, call, device=device, settle_s=settle_s)
        for name, call in calls.items()
    ]
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
        least = 0.0 if name == "settle_s" else sys.float_info.min
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            words = "at least" if name == "settle_s" else "above"
            raise ConfigError(f"time_calls: {name} must be a number of seconds {words} 0, got {given(value)}.")


def _call_time(name: str, blocks: list[Block], first: list[Block], samples: int, seed: int) -> CallTime:
    kept = [block.undisturbed_ms for block in blocks if block.undisturbed_ms.size]
    middles = [float(np.median(ms)) for ms in kept or [block.ms for block in blocks]]
    ms, low, high = bootstrap_median(middles, seed=seed)
    found = pace_ratio(first, blocks, seed=seed)
    return CallTime(name, ms, low, high, 1e3 * samples / ms, found.ratio, found.low, found.high)
