"""Bounded queue that groups inputs into batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

from workbench.core.checks import require_nonnegative

T = TypeVar("T")


def wait_seconds(where: str, max_wait_ms: float | None) -> float | None:
    """Return a checked time limit in seconds, None without one."""
    if max_wait_ms is None:
        return None
    return require_nonnegative(f"{where}: max_wait_ms", max_wait_ms, unit="milliseconds") / 1e3


class BatchQueue(Generic[T]):
    """First-in, first-out queue that returns a group per call of the runtime.

    A group is due if ``size`` samples wait, ``wait_s`` seconds after the request of its first input (None: no time
    limit), or once the queue is finished. A larger input forms a group of its own. Threads that put more than
    ``limit``, in the units of ``weight``, block until there is room.
    """

    def __init__(self, *, size: int, wait_s: float | None, limit: int) -> None:
        self._size, self._wait_s, self._limit = size, wait_s, limit
        self._items: deque[tuple[T, int, int, float]] = deque()
        self._samples = self._weight = 0
        self._closed = False
        lock = threading.Lock()
        self._room, self._due = threading.Condition(lock), threading.Condition(lock)

    def put(self, item: T, *, samples: int, weight: int, requested: float) -> bool:
        """Add one input, waiting for room; return False if the queue is closed."""
        with self._room:
            while self._weight >= self._limit and not self._closed:
                self._room.wait()
            if self._closed:
                return False
            self._items.append((item, samples, weight, requested))
            self._samples += samples
            self._weight += weight
            # Waking the consumer for each of many small inputs would cost more than they do.
            if self._samples >= self._size or (self._wait_s is not None and len(self._items) == 1):
                self._due.notify()
        return True

    def take(self) -> list[T]:
        """Wait for the next group; return an empty list once the queue is closed and empty."""
        with self._due:
            while not self._is_due():
                self._due.wait(self._seconds_left())
            return self._pop()

    @property
    def ready(self) -> bool:
        """True if :meth:`take` would return at once."""
        with self._due:
            return self._is_due()

    def _is_due(self) -> bool:
        left = self._seconds_left()
        return self._closed or self._samples >= self._size or (left is not None and left <= 0)

    def _seconds_left(self) -> float | None:
        """Return the seconds until the first input is due, None without a time limit."""
        if not self._items or self._wait_s is None:
            return None
        return self._items[0][3] + self._wait_s - time.perf_counter()

    def _pop(self) -> list[T]:
        group: list[T] = []
        count = 0
        while self._items and (not group or count + self._items[0][1] <= self._size):
            item, samples, weight, _ = self._items.popleft()
            count += samples
            self._weight -= weight
            group.append(item)
        self._samples -= count
        # Not for every group, because a thread that wakes up takes a core of the runtime; but before a consumer waits.
        if self._weight <= self._limit // 2 or self._samples < self._size:
            self._room.notify_all()
        if self._items:  # another consumer must compute its own time limit
            self._due.notify()
        return group

    def finish(self) -> None:
        """Close the queue; inputs that wait are handed out at once."""
        with self._due:
            self._close()

    def cancel(self) -> list[T]:
        """Close the queue, and return the inputs that waited."""
        with self._due:
            dropped = [item for item, *_ in self._items]
            self._items.clear()
            self._samples = self._weight = 0
            self._close()
        return dropped

    def _close(self) -> None:
        self._closed = True
        self._due.notify_all()
        self._room.notify_all()
