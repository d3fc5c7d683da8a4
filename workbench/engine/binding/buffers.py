"""Memory that is used again: arrays lent out, kept when they come back, up to a limit. numpy only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
_Key = tuple[str, tuple[int, ...]]
MIB = 2**20


class BufferStatistics(NamedTuple):
    """What a pool did: ``hits`` served from kept arrays, ``misses`` allocated, ``dropped`` freed for the limit."""

    hits: int
    misses: int
    dropped: int
    lent_mib: float
    kept_mib: float
    peak_mib: float
    limit_mib: float

    def __str__(self) -> str:
        asked = self.hits + self.misses
        share = f"{self.hits / asked:.0%} of {asked} served from kept buffers" if asked else "nothing asked for yet"
        return (
            f"{share}; {self.lent_mib:.2f} MiB lent, {self.kept_mib:.2f} MiB kept "
            f"(limit {self.limit_mib:.0f}), at most {self.peak_mib:.2f} MiB"
        )


class BufferPool:
    """Lends arrays and keeps those that come back, for the next who asks for the same shape and dtype.

    Parameters
    ----------
    limit_mib : float
        How much may be kept while nobody uses it; what was not asked for the longest goes first. What is lent out does
        not count: the pool never refuses memory.
    make
        Allocates an array by shape and dtype.

    Examples
    --------
    >>> pool = BufferPool(limit_mib=16)
    >>> with pool.lease([((4, 8), "float32")]) as (buffer,):
    ...     buffer.shape
    (4, 8)
    >>> pool.statistics.kept_mib > 0
    True
    """

    def __init__(self, *, limit_mib: float, make: Callable[[tuple[int, ...], str], Array] = np.empty) -> None:
        self._make = make
        self._limit = int(limit_mib * MIB)
        self._free: OrderedDict[_Key, list[Array]] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = self._dropped = 0
        self._lent = self._kept = self._peak = 0

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array with any content; hand it back with :meth:`give`."""
        key = (dtype, shape)
        with self._lock:
            waiting = self._free.get(key)
            if waiting:
                found: Array | None = waiting.pop()
                if not waiting:
                    del self._free[key]
                self._hits += 1
                self._kept -= found.nbytes  # type: ignore[union-attr]
            else:
                found = None
                self._misses += 1
        array = self._make(shape, dtype) if found is None else found
        with self._lock:
            self._lent += array.nbytes
            self._peak = max(self._peak, self._lent + self._kept)
        return array

    def give(self, array: Array) -> None:
        """Take an array of :meth:`take` back; nobody may use it any more."""
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

    @contextmanager
    def lease(self, wanted: Sequence[tuple[tuple[int, ...], str]]) -> Iterator[list[Array]]:
        """Lend arrays for a ``with`` block, each by shape and dtype."""
        taken = [self.take(shape, dtype) for shape, dtype in wanted]
        try:
            yield taken
        finally:
            for array in taken:
                self.give(array)

    def clear(self) -> None:
        """Free what is kept."""
        with self._lock:
            self._free.clear()
            self._kept = 0

    @property
    def statistics(self) -> BufferStatistics:
        """What the pool did so far."""
        with self._lock:
            lent, kept, peak, limit = (n / MIB for n in (self._lent, self._kept, self._peak, self._limit))
            return BufferStatistics(self._hits, self._misses, self._dropped, lent, kept, peak, limit)
