"""Worker policy: stall timeout, environment, and phase timing."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from workbench.study.config import STALL_TIMEOUT_S

PHASES = ("train", "export", "load", "warm-up", "timed", "footprint", "quality", "waiting")
"""The work of a run, without imports, process starts, the database, and the study's own computations.

``train`` is the whole of applying a recipe, ``footprint`` the measurement of memory and energy, ``waiting`` the wait
for the machine lock.
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
    """Return the phase of a worker's command; preparing returns its own two.

    Examples
    --------
    >>> spans_of("block", 1.0, 1.5)
    [('timed', 1.0, 1.5)]
    """
    return [(_COMMANDS[command], begun, ended)] if command in _COMMANDS else []


class Phases:
    """Collects spans from several threads.

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
        """Record spans."""
        with self._lock:
            self._spans += [(str(phase), float(begun), float(ended)) for phase, begun, ended in spans]

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Record the time of a ``with`` block."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add([(phase, begun, time.monotonic())])

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase; overlapping spans count once."""
        seconds = {phase: self._union(phase) for phase in PHASES}
        return {phase: value for phase, value in seconds.items() if value is not None}

    def covered_s(self) -> float:
        """Return the seconds with any phase."""
        return self._union() or 0.0

    def _union(self, phase: str | None = None) -> float | None:
        """Return the length of the union of spans, None if there is none."""
        with self._lock:
            spans = sorted((begun, ended) for name, begun, ended in self._spans if phase in (None, name))
        total, reached = 0.0, float("-inf")
        for begun, ended in spans:
            total += max(0.0, ended - max(begun, reached))
            reached = max(reached, ended)
        return total if spans else None


def dask_variables() -> tuple[str, ...]:
    """Return the environment variables that Dask's nanny has set, which the workers of a study must not inherit.

    It sets one thread for BLAS and a trim threshold for malloc, also in a process that made a ``LocalCluster``. Trials
    run as without Dask, so that their rows can be compared.

    Examples
    --------
    >>> "distributed" in sys.modules or dask_variables() == ()
    True
    """
    if "distributed" not in sys.modules:
        return ()
    import dask.config

    variables = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return tuple(name for name, value in variables.items() if os.environ.get(name) == str(value))


@dataclass(frozen=True)
class WorkerPolicy:
    """Stall timeout, phase timing and environment of the workers of a run.

    ``stall_s`` is the longest time without an event (None: no limit), ``unset`` the variables that they do not inherit.
    """

    stall_s: float | None = STALL_TIMEOUT_S
    phases: Phases = field(default_factory=Phases)
    unset: tuple[str, ...] = field(default_factory=dask_variables)
