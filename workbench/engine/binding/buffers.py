"""Pool of reusable arrays with a size limit. numpy only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
_Key = tuple[str, tuple[int, ...]]
MIB = 2**20


class BufferStatistics(NamedTuple):
    """Statistics of a pool: ``hits`` reused an array, ``misses`` allocated one, ``dropped`` were freed by the limit."""

    hits: int
    misses: int
    dropped: int
    lent_mib: float
    kept_mib: float
    peak_mib: float
    limit_mib: float

    def __str__(self) -> str:
        requests = self.hits + self.misses
        share = f"{self.hits / requests:.0%} of {requests} served from kept buffers" if requests else "no requests yet"
        return (
            f"{share}; {self.lent_mib:.2f} MiB lent, {self.kept_mib:.2f} MiB kept "
            f"(limit {self.limit_mib:.0f}), at most {self.peak_mib:.2f} MiB"
        )


class BufferPool:
    """Lend arrays, and keep returned ones for the next request of the same shape and dtype.

    ``limit_mib`` limits unused arrays; the least recently used go first. Lent arrays do not count: a request never
    fails. ``make`` allocates an array by shape and dtype.
    """

    def __init__(self, *, limit_mib: float, make: Callable[[tuple[int, ...], str], Array] = np.empty) -> None:
        self._make = make
        self._limit = int(limit_mib * MIB)
        self._free: OrderedDict[_Key, list[Array]] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = self._dropped = 0
        self._lent = self._kept = self._peak = 0

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array with arbitrary content; return it with :meth:`give`."""
        with self._lock:
            array = self._reused((dtype, shape))
        if array is None:
            array = self._make(shape, dtype)
        with self._lock:
            self._lent += array.nbytes
            self._peak = max(self._peak, self._lent + self._kept)
        return array

    def _reused(self, key: _Key) -> Array | None:
        waiting = self._free.get(key)
        if not waiting:
            self._misses += 1
            return None
        array = waiting.pop()
        if not waiting:
            del self._free[key]
        self._hits += 1
        self._kept -= array.nbytes
        return array

    def give(self, array: Array) -> None:
        """Return an array of :meth:`take` to the pool."""
        with self._lock:
            self._lent -= array.nbytes
            key = (array.dtype.name, array.shape)
            self._free.setdefault(key, []).append(array)
            self._free.move_to_end(key)
            self._kept += array.nbytes
            self._shrink()

    def _shrink(self) -> None:
        while self._kept > self._limit and self._free:
            key, waiting = next(iter(self._free.items()))
            self._kept -= waiting.pop().nbytes
            self._dropped += 1
            if not waiting:
                del self._free[key]

    def clear(self) -> None:
        with self._lock:
            self._free.clear()
            self._kept = 0

    @property
    def statistics(self) -> BufferStatistics:
        with self._lock:
            lent, kept, peak, limit = (n / MIB for n in (self._lent, self._kept, self._peak, self._limit))
            return BufferStatistics(self._hits, self._misses, self._dropped, lent, kept, peak, limit)
