"""A bounded line of inputs that hands them out in groups worth one call of the runtime."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Gatherer(Generic[T]):
    """Holds what waits for a call, in the order in which it came.

    A group is due once ``size`` samples wait, ``wait_s`` seconds after the first of them was asked for, or when nothing
    more can come. Threads that bring more than ``limit`` wait until there is room.

    Parameters
    ----------
    size : int
        Samples in one group; an input with more of them is a group of its own.
    wait_s : float or None
        Seconds; None waits for a full group.
    limit : int
        How much may wait, in the units of ``weight`` in :meth:`put`.
    """

    def __init__(self, *, size: int, wait_s: float | None, limit: int) -> None:
        self._size, self._wait_s, self._limit = size, wait_s, limit
        self._items: deque[tuple[T, int, int, float]] = deque()
        self._samples = self._weight = 0
        self._closed = False
        lock = threading.Lock()
        self._room, self._due = threading.Condition(lock), threading.Condition(lock)

    def put(self, item: T, *, samples: int, weight: int, asked: float) -> bool:
        """Bring one input, waiting for room; False once the line is closed."""
        with self._room:
            while self._weight >= self._limit and not self._closed:
                self._room.wait()
            if self._closed:
                return False
            self._items.append((item, samples, weight, asked))
            self._samples += samples
            self._weight += weight
            # Waking the taker for each of many small inputs would cost more than they do.
            if self._samples >= self._size or (self._wait_s is not None and len(self._items) == 1):
                self._due.notify()
        return True

    def take(self) -> list[T]:
        """Wait for the next group; nothing once the line is closed and empty."""
        with self._due:
            while not self._closed and self._samples < self._size:
                left = self._patience()
                if left is not None and left <= 0:
                    break
                self._due.wait(left)
            return self._pop()

    @property
    def ready(self) -> bool:
        """Whether :meth:`take` would return at once, as long as nobody else takes."""
        with self._due:
            left = self._patience()
            return self._closed or self._samples >= self._size or (left is not None and left <= 0)

    def _patience(self) -> float | None:
        """Return the seconds until the first input has waited long enough; None where nothing sets a time."""
        if not self._items or self._wait_s is None:
            return None
        return self._items[0][3] + self._wait_s - time.perf_counter()

    def _pop(self) -> list[T]:
        group: list[T] = []
        taken = 0
        while self._items and (not group or taken + self._items[0][1] <= self._size):
            item, samples, weight, _ = self._items.popleft()
            taken += samples
            self._weight -= weight
            group.append(item)
        self._samples -= taken
        # Not for every group: a thread that wakes up takes the core of one that computes. But before a taker waits.
        if self._weight <= self._limit // 2 or self._samples < self._size:
            self._room.notify_all()
        if self._items:  # another taker may wait, and does not know how long these may
            self._due.notify()
        return group

    def finish(self) -> None:
        """Take nothing more; what waits is handed out without waiting for others."""
        with self._due:
            self._closed = True
            self._due.notify_all()
            self._room.notify_all()

    def cancel(self) -> list[T]:
        """Take nothing more, and return what waited and is handed out to nobody."""
        with self._due:
            self._closed = True
            dropped = [item for item, *_ in self._items]
            self._items.clear()
            self._samples = self._weight = 0
            self._due.notify_all()
            self._room.notify_all()
        return dropped
