"""Timing by turns: calls in short blocks whose order is drawn anew in each round, so that a slow moment hits all."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from workbench.core.stats import ratio_interval

SETTLE_S = 0.05
"""OpenVINO takes half as long again for its first calls after other runtimes have run: seen for 30 ms."""
REST_S = 0.1
_LOOK_S = 0.002
_LONG_LOOK_S, _BUSY = 0.01, 0.3  # systems may count the time of running threads in steps of 10 ms
_TASKS = Path("/proc/self/task")
Block = Callable[[], Sequence[float]]
"""Runs for a moment and returns milliseconds per call, one number for each call or for all together."""


Times = Sequence[Sequence[float]]
"""Milliseconds per call in each block of one name."""


def median_ms(times: Times) -> float:
    """Return the median over blocks of the median of each.

    Examples
    --------
    >>> median_ms([[1.0, 2.0, 9.0], [4.0]])
    3.0
    """
    return float(np.median([np.median(block) for block in times]))


def time_ratio(times: Times, base: Times) -> tuple[float, float, float]:
    """Return the time over that of the base in the same rounds, with its 95 % CI: below 1 is faster."""
    return ratio_interval([np.asarray(block) for block in times], [np.asarray(block) for block in base])


def by_turns(blocks: Mapping[str, Block], *, rounds: tuple[int, int], end: float) -> dict[str, list[Sequence[float]]]:
    """Return what each block gave in each round.

    Parameters
    ----------
    blocks : mapping of name to function
        One turn of each.
    rounds : (int, int)
        Least and most rounds.
    end : float
        Value of ``time.perf_counter`` after which no further round starts once the least number is done, nor one that
        would last until after it, going by the round before.

    Examples
    --------
    >>> by_turns({"a": lambda: [1.0], "b": lambda: [2.0, 2.0]}, rounds=(2, 2), end=0.0)
    {'a': [[1.0], [1.0]], 'b': [[2.0, 2.0], [2.0, 2.0]]}
    """
    found: dict[str, list[Sequence[float]]] = {name: [] for name in blocks}
    order, generator = list(blocks), random.Random(0)
    for number in range(1, rounds[1] + 1):
        begun = time.perf_counter()
        generator.shuffle(order)
        for name in order:
            found[name].append(blocks[name]())
        now = time.perf_counter()
        if number >= rounds[0] and now + (now - begun) > end:
            break
    return found


def until_quiet(*, limit_s: float = REST_S) -> None:
    """Sleep until no other thread of this process wants a core any more, but no longer than ``limit_s``.

    After a call a runtime's workers spin in case another one comes: ONNX Runtime's for 40 ms, and for longer where they
    share their core. Whoever is timed next would share it with them, in a process of its own too.
    """
    end = time.perf_counter() + limit_s
    while _others_want_a_core() and time.perf_counter() < end:
        time.sleep(_LOOK_S)


def _others_want_a_core() -> bool:
    """Say whether other threads of this process run or wait for a core; where Linux does not tell, whether they ran."""
    me = threading.get_native_id()
    try:
        return any(path.name != str(me) and _state(path) == "R" for path in _TASKS.iterdir())
    except OSError:
        used = time.process_time()
        time.sleep(_LONG_LOOK_S)
        return time.process_time() - used > _BUSY * _LONG_LOOK_S


def _state(task: Path) -> str:
    with contextlib.suppress(OSError):  # it has ended
        return (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    return ""


def timed_block(call: Callable[[], object], *, block_s: float, settle_s: float = SETTLE_S) -> list[float]:
    """Call for ``block_s`` seconds, and return the milliseconds of each call, of one at least.

    Calls that begin within ``settle_s`` are left out, so the first one always: after a switch they still meet the
    caches and threads of whoever ran before. Afterwards this process is left quiet, for whoever is next.
    """
    samples: list[float] = []
    begun = time.perf_counter()
    call()
    while not samples or time.perf_counter() - begun < block_s:
        start = time.perf_counter()
        call()
        stop = time.perf_counter()
        if start - begun >= settle_s:
            samples.append((stop - start) * 1e3)
    until_quiet()
    return samples
