"""Peak memory of a call in torch's CPU allocator, by torch's profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.core.checks import require_callable
from workbench.core.lazy import optional_import

_CPU = 0  # c10::DeviceType of a memory event


def torch_call_peak_mib(call: Callable[[], Any]) -> float:
    """Return the peak memory of one call in torch's CPU allocator in MiB, above the level before the call.

    It covers activations and workspaces of torch, not weights, and not allocations of oneDNN or other runtimes. A
    warm-up call is not counted. Profiled calls are slow, so do not time them. On a GPU use an engine's
    ``metrics.peak_memory_mib``.

    Raises
    ------
    ConfigError
        If ``call`` is not a function.
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
    return _peak_bytes(events) / 2**20


def _peak_bytes(events: Iterable[Mapping[str, Any]]) -> int:
    steps = [e for e in events if e.get("name") == "[memory]" and e["args"].get("Device Type") == _CPU]
    held = peak = 0
    for event in sorted(steps, key=lambda e: float(e["ts"])):
        held += int(event["args"]["Bytes"])
        peak = max(peak, held)
    return peak
