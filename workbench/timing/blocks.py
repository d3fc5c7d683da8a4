"""Blocks of timed calls with their disturbances: run-queue delay, page faults, context switches."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

MAX_WAIT = 0.05
"""Share of an undisturbed call that its threads may wait for a core: 0 to 4 % on a quiet machine."""
READ_MS = 4.0
"""Run-queue delay is read after this time in calls: about one slice of Linux's scheduler."""
_READ_COSTS = 20
"""Calls between two reads take at least so many times as long as a read, which grows with the number of threads."""
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
        Time in ms that runnable threads of the process waited for a core, summed over threads; calls shorter than 4 ms
        share one reading. None if the kernel does not count it.
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
    def of(cls, block: Block | Sequence[float]) -> Block:
        """Return a block from one, or from ms per call."""
        return block if isinstance(block, Block) else cls(np.asarray(block, dtype=np.float64))

    @property
    def undisturbed_ms(self) -> Samples:
        """Ms of the calls whose threads waited for a core for at most 5 % of the time."""
        return self.ms if self.wait_ms is None else self.ms[self.wait_ms <= MAX_WAIT * self.ms]

    def to_dict(self) -> dict[str, Any]:
        """Return the block as JSON values."""
        waits = None if self.wait_ms is None else [round(float(ms), 6) for ms in self.wait_ms]
        return {"ms": [round(float(ms), 6) for ms in self.ms], "wait_ms": waits, "usage": self.usage}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Block:
        """Return the block of :meth:`to_dict`."""
        waits, usage = values.get("wait_ms"), values.get("usage")
        return cls(
            np.asarray(values["ms"], dtype=np.float64),
            None if waits is None else np.asarray(waits, dtype=np.float64),
            None if usage is None else Usage(*usage),
        )


class RunDelay:
    """Run-queue delay of the threads that this process has now (Linux: ``/proc/self/task/*/schedstat``).

    Examples
    --------
    >>> with RunDelay() as delay:
    ...     delay.read_ms() is None or delay.read_ms() >= 0.0
    True
    """

    def __init__(self) -> None:
        self._files: list[int] = []
        with contextlib.suppress(OSError):
            for task in _TASKS.iterdir():
                with contextlib.suppress(OSError):  # the thread has ended, or the kernel has no such counters
                    self._files.append(os.open(task / "schedstat", os.O_RDONLY))
        begun = time.perf_counter()
        self.read_ms()
        self.every_ms = max(READ_MS, _READ_COSTS * (time.perf_counter() - begun) * 1e3)

    def read_ms(self) -> float | None:
        """Return the ms waited so far, summed over threads; None if the kernel does not count it."""
        if not self._files:
            return None
        nanoseconds = 0
        for file in self._files:
            with contextlib.suppress(OSError, IndexError, ValueError):  # the thread has ended
                nanoseconds += int(os.pread(file, 64, 0).split()[1])
        return nanoseconds / 1e6

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _process_usage() -> Usage:
    """Return the page faults and context switches of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(used.ru_minflt, used.ru_nvcsw + used.ru_nivcsw)


def run_block(call: Callable[[], object], seconds: float) -> Block:
    """Call for ``seconds``, at least once, and record the disturbances."""
    clock = time.perf_counter
    ms: list[float] = []
    readings: list[tuple[int, float]] = []
    with RunDelay() as delay:
        before, waited = _process_usage(), delay.read_ms()
        since, end = 0.0, clock() + seconds
        while True:
            begun = clock()
            call()
            now = clock()
            ms.append((now - begun) * 1e3)
            since += ms[-1]
            if now >= end or since >= delay.every_ms:
                readings.append((len(ms), delay.read_ms() or 0.0))
                since = 0.0
            if now >= end:
                break
    after = _process_usage()
    usage = Usage(after.faults - before.faults, after.switches - before.switches)
    return Block(np.asarray(ms), None if waited is None else _shared(readings, waited), usage)


def usage_per_call(blocks: Sequence[Block]) -> tuple[float | None, float | None]:
    """Return page faults and context switches per call over all blocks, None if they were not counted."""
    counted = [(block.usage, block.ms.size) for block in blocks if block.usage is not None]
    calls = sum(size for _, size in counted)
    if not calls:
        return None, None
    return sum(usage.faults for usage, _ in counted) / calls, sum(usage.switches for usage, _ in counted) / calls


def _shared(readings: Sequence[tuple[int, float]], first_ms: float) -> Samples:
    """Return the wait of each call: calls between two readings share the difference."""
    waits: list[float] = []
    last = first_ms
    for calls, total in readings:
        count = calls - len(waits)
        waits += [max(total - last, 0.0) / count] * count
        last = total
    return np.asarray(waits)
