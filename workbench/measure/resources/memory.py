"""Memory of this process (RSS, PSS) and of a call (allocations of Python, NumPy and torch)."""

from __future__ import annotations

import gc
import json
import platform
import tempfile
import tracemalloc
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from workbench.core.checks import require_callable, require_int
from workbench.core.errors import EngineError
from workbench.core.lazy import optional_import

_CPU = 0  # c10::DeviceType of a memory event


def peak_rss_mib() -> tuple[float | None, str | None]:
    """Return the peak RSS of this process in MiB, or None with the reason.

    Linux: VmHWM, because ``getrusage`` includes the peak of the parent process there. macOS: ``getrusage``.

    Examples
    --------
    >>> mib, reason = peak_rss_mib()
    >>> mib is None or mib > 1
    True
    """
    system = platform.system()
    if system == "Linux":
        return _line_mib(Path("/proc/self/status"), "VmHWM:", "this kernel does not count peak memory")
    if system == "Darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, None
    return None, f"Peak memory is not supported on {system}."


def pss_mib() -> tuple[float | None, str | None]:
    """Return the current PSS of this process in MiB, or None with the reason.

    A page that n processes map counts 1/n in each, so the PSS of all processes adds up to their total memory. Linux
    only (``/proc/self/smaps_rollup``). A reading takes about 1 ms per GiB; do not read within a timing.

    Examples
    --------
    >>> mib, reason = pss_mib()
    >>> mib is None or mib <= peak_rss_mib()[0]
    True
    """
    if platform.system() != "Linux":
        return None, f"PSS is not supported on {platform.system()}; it requires Linux."
    return _line_mib(Path("/proc/self/smaps_rollup"), "Pss:", "this kernel does not count it")


class PeakPss:
    """Largest PSS of several readings, because the kernel does not record a peak; read it when it may be high.

    ``mib`` is the largest reading in MiB, None before the first one or if PSS is not readable; ``reason`` is why
    ``mib`` is None, or its source.

    Examples
    --------
    >>> peak = PeakPss()
    >>> peak.read()
    >>> peak.mib is None or peak.mib > 1
    True
    """

    def __init__(self) -> None:
        self.mib: float | None = None
        self.reason: str | None = "PSS was not read."

    def read(self) -> None:
        """Take a reading."""
        now, reason = pss_mib()
        if now is not None:
            self.mib = max(now, self.mib or 0.0)
            self.reason = "Largest of a few readings, because the kernel does not record a peak."
        elif self.mib is None:
            self.reason = reason


def _line_mib(path: Path, name: str, otherwise: str) -> tuple[float | None, str | None]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}."
    for line in lines:
        if line.startswith(name):
            return int(line.split()[1]) / 1024, None
    return None, f"{path} has no {name.rstrip(':')} line: {otherwise}."


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


def torch_call_peak_mib(call: Callable[[], Any]) -> float:
    """Return the peak memory of one call in torch's CPU allocator in MiB, above the level before the call.

    It covers activations and workspaces of torch, not weights, and not allocations of oneDNN or other runtimes. A
    warm-up call is not counted. Profiled calls are slow, so do not time them. On a GPU use an engine's
    ``metrics.peak_memory_mib``.

    Raises
    ------
    PackageMissing
        If torch is not installed.

    Examples
    --------
    >>> import torch
    >>> round(torch_call_peak_mib(lambda: torch.zeros(2**18)), 1)
    1.0
    """
    require_callable("torch_call_peak_mib: call", call, takes="no arguments")
    with optional_import("torch_call_peak_mib"):
        from torch.profiler import ProfilerActivity, profile
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        call()
    with tempfile.TemporaryDirectory(prefix="workbench-memory-") as folder:
        path = Path(folder) / "trace.json"
        run.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    steps = [e for e in events if e.get("name") == "[memory]" and e["args"].get("Device Type") == _CPU]
    ordered = sorted(steps, key=lambda event: float(event["ts"]))
    return max(accumulate((int(event["args"]["Bytes"]) for event in ordered), initial=0)) / 2**20
