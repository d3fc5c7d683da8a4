"""Where the seconds of a run went: what its children did, by phase; what is left is the workbench's own cost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator

PHASES = ("train", "export", "load", "warm-up", "timed", "footprint", "quality", "waiting")
"""What is work for its own sake. Imports, process starts, the database and the parent's sums belong to none of them.

``train`` is the whole of applying a recipe, ``footprint`` the memory and energy of calls, ``waiting`` the time that
another study on this machine had the cores.
"""
_COMMANDS = {
    "open": "load",
    "warm": "warm-up",
    "block": "timed",
    "threads": "timed",
    "memory": "footprint",
    "energy": "footprint",
    "evaluate": "quality",
}
Span = tuple[str, float, float]
"""Phase, begin and end, in seconds of ``time.monotonic``, which is one clock for all processes of a machine."""


def spans_of(command: str, begun: float, ended: float) -> list[Span]:
    """Return the phase that a command of a child was; preparing tells its own two.

    Examples
    --------
    >>> spans_of("block", 1.0, 1.5)
    [('timed', 1.0, 1.5)]
    """
    return [(_COMMANDS[command], begun, ended)] if command in _COMMANDS else []


class Phases:
    """Collects intervals from several threads.

    Examples
    --------
    >>> phases = Phases()
    >>> phases.add([("train", 0.0, 2.0), ("timed", 1.0, 3.0)])
    >>> phases.seconds(), phases.covered_s()
    ({'train': 2.0, 'timed': 2.0}, 3.0)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []

    def add(self, spans: Iterable[Span]) -> None:
        """Note intervals."""
        with self._lock:
            self._spans += [(str(phase), float(begun), float(ended)) for phase, begun, ended in spans]

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Note how long a ``with`` block takes."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add([(phase, begun, time.monotonic())])

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase that there was; what two children did at once counts once."""
        with self._lock:
            spans = list(self._spans)
        return {
            phase: _union([(begun, ended) for name, begun, ended in spans if name == phase])
            for phase in PHASES
            if any(name == phase for name, _, _ in spans)
        }

    def covered_s(self) -> float:
        """Return the seconds in which there was any phase at all."""
        with self._lock:
            return _union([(begun, ended) for _, begun, ended in self._spans])


def _union(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begun, ended in sorted(intervals):
        total += max(0.0, ended - max(begun, reached))
        reached = max(reached, ended)
    return total
