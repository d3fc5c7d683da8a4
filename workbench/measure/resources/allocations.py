"""What a call allocates, as Python's own tracer counts it: Python's objects and numpy's arrays."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

from workbench.core.checks import require_callable, require_int
from workbench.core.errors import EngineError


class Allocations(NamedTuple):
    """The most that one call held at a time beyond what was there before it, and what ``calls`` calls left behind."""

    peak_kib: float
    left_kib: float
    calls: int


def trace_allocations(call: Callable[[], Any], *, calls: int = 50) -> Allocations:
    """Trace the memory of a call that is made again and again; what it returns is dropped each time.

    The tracer sees what Python and numpy allocate. Tensors that torch allocates and the runtimes' own workspaces are
    invisible to it. A traced call is slower: do not time it.

    Raises
    ------
    ConfigError
        If ``call`` is no function or ``calls`` below 1.
    EngineError
        If something else traces memory in this process already.

    Examples
    --------
    >>> trace_allocations(lambda: bytearray(2**20)).peak_kib > 1000
    True
    """
    require_callable("trace_allocations: call", call, takes="no arguments")
    require_int("trace_allocations: calls", calls)
    if tracemalloc.is_tracing():
        raise EngineError("Memory is traced in this process already (tracemalloc). Stop that first.")
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
