"""Trace allocations of a call: Python objects and NumPy arrays, by tracemalloc."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

from workbench.core.checks import require_callable, require_int
from workbench.core.errors import EngineError


class Allocations(NamedTuple):
    """Peak allocation of one call, and the allocations left after ``calls`` calls."""

    peak_kib: float
    left_kib: float
    calls: int


def trace_allocations(call: Callable[[], Any], *, calls: int = 50) -> Allocations:
    """Trace the allocations of repeated calls, whose return values are dropped.

    tracemalloc covers Python and NumPy, but not torch's tensors and the workspaces of runtimes. Traced calls are slow,
    so do not time them.

    Raises
    ------
    ConfigError
        If ``call`` is not a function or ``calls`` below 1.
    EngineError
        If tracemalloc is already active.

    Examples
    --------
    >>> trace_allocations(lambda: bytearray(2**20)).peak_kib > 1000
    True
    """
    require_callable("trace_allocations: call", call, takes="no arguments")
    require_int("trace_allocations: calls", calls)
    if tracemalloc.is_tracing():
        raise EngineError("tracemalloc is already active in this process. Stop it first.")
    for _ in range(3):
        call()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        before = tracemalloc.get_traced_memory()[0]
        peak = 0
        for _ in range(calls):
            held = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            call()
            peak = max(peak, tracemalloc.get_traced_memory()[1] - held)
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return Allocations(peak / 1024, max(0, left) / 1024, calls)
