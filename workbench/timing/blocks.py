"""A block of timed calls, and what disturbed it: run-queue delay, page faults, context switches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

FREE = 0.05
"""Share of a call that its threads may wait for a core: on a quiet machine it is 0 to 4 %."""
LOOK_MS = 4.0
"""Run-queue delay is read after calls that took this long together: about one slice of Linux's scheduler."""
_LOOK_COSTS = 20
"""Calls between two looks take at least so many times as long as a look, which grows with the number of threads."""
_TASKS = Path("/proc/self/task")


class Usage(NamedTuple):
    """Page faults without reading from disk, and context switches, of this process or of one block."""

    faults: int
    switches: int


@dataclass(frozen=True)
class Block:
    """Calls of one arm in one turn.

    Attributes
    ----------
    ms : array [calls]
        Wall time of each call in ms.
    wait_ms : array [calls] or None
        Time in ms that threads of the process were ready to run and had no core, summed over threads; calls shorter
        than 4 ms share what was read for several of them. None if the kernel does not count it.
    usage : Usage or None
        Page faults and context switches of all calls.

    Examples
    --------
    >>> Block.of([2.0, 2.1]).ms.tolist()
    [2.0, 2.1]
    """

    ms: Samples
    wait_ms: Samples | None = None
    usage: Usage | None = None

    @classmethod
    def of(cls, found: Block | Sequence[float]) -> Block:
        """Return a block from one, or from ms per call."""
        return found if isinstance(found, Block) else cls(np.asarray(found, dtype=np.float64))

    @property
    def undisturbed_ms(self) -> Samples:
        """Ms of the calls whose threads hardly waited for a core."""
        return self.ms if self.wait_ms is None else self.ms[self.wait_ms <= FREE * self.ms]

    def to_dict(self) -> dict[str, Any]:
        """Return the block as JSON values."""
        waits = None if self.wait_ms is None else [round(float(ms), 6) for ms in self.wait_ms]
        return {"ms": [round(float(ms), 6) for ms in self.ms], "wait_ms": waits, "usage": self.usage}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Block:
        """Return a block from what :meth:`to_dict` returned."""
        waits, usage = values.get("wait_ms"), values.get("usage")
        return cls(
            np.asarray(values["ms"], dtype=np.float64),
            None if waits is None else np.asarray(waits, dtype=np.float64),
            None if usage is None else Usage(*usage),
        )


class RunDelay:
    """Read how long threads of this process have waited for a core (Linux: ``/proc/self/task/*/schedstat``).

    Examples
    --------
    >>> delay = RunDelay()
    >>> delay.read_ms() is None or delay.read_ms() >= 0.0
    True
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self.look_ms = LOOK_MS
        self.look_for_threads()

    def look_for_threads(self) -> None:
        """Take in threads that began and drop those that ended."""
        try:
            alive = {task.name for task in _TASKS.iterdir()}
        except OSError:
            alive = set()
        for thread in [name for name in self._files if name not in alive]:
            os.close(self._files.pop(thread))
        for thread in alive - set(self._files):
            try:
                self._files[thread] = os.open(f"{_TASKS}/{thread}/schedstat", os.O_RDONLY)
            except OSError:  # it has ended, or the kernel keeps no such counters
                continue
        begun = time.perf_counter()
        self.read_ms()
        self.look_ms = max(LOOK_MS, _LOOK_COSTS * (time.perf_counter() - begun) * 1e3)

    def read_ms(self) -> float | None:
        """Return ms waited so far, summed over threads; None if the kernel does not count it."""
        if not self._files:
            return None
        nanoseconds = 0
        for file in self._files.values():
            try:
                nanoseconds += int(os.pread(file, 64, 0).split()[1])
            except (OSError, IndexError, ValueError):  # the thread has ended
                continue
        return nanoseconds / 1e6

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()


def process_usage() -> Usage | None:
    """Return the page faults and context switches of this process so far, None where the system does not count."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(used.ru_minflt, used.ru_nvcsw + used.ru_nivcsw)


def run_block(call: Callable[[], object], seconds: float, delay: RunDelay) -> Block:
    """Call for ``seconds``, at least once, and note what disturbed the calls."""
    clock = time.perf_counter
    ms: list[float] = []
    looks: list[tuple[int, float]] = []
    delay.look_for_threads()
    before, waited = process_usage(), delay.read_ms()
    since, end = 0.0, clock() + seconds
    while True:
        begun = clock()
        call()
        now = clock()
        ms.append((now - begun) * 1e3)
        since += ms[-1]
        if now >= end or since >= delay.look_ms:
            looks.append((len(ms), delay.read_ms() or 0.0))
            since = 0.0
        if now >= end:
            break
    after = process_usage()
    usage = Usage(after[0] - before[0], after[1] - before[1]) if before and after else None
    return Block(np.asarray(ms), None if waited is None else _shared(looks, waited), usage)


def _shared(looks: Sequence[tuple[int, float]], first_ms: float) -> Samples:
    """Return the wait of each call: that between two looks is shared by the calls between."""
    waits: list[float] = []
    last = first_ms
    for calls, total in looks:
        count = calls - len(waits)
        waits += [max(total - last, 0.0) / count] * count
        last = total
    return np.asarray(waits)
