"""What processes take of the processor, and which of its cores this one may use: read with psutil."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

import psutil


def allowed_cores() -> list[int]:
    """Return the numbers of the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def own_processes(pids: Iterable[int] = ()) -> list[psutil.Process]:
    """Return this process, its children and theirs, and those of ``pids`` that are there."""
    this = psutil.Process()
    own = {this.pid: this}
    with contextlib.suppress(psutil.Error):
        own |= {process.pid: process for process in this.children(recursive=True)}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            own.setdefault(pid, psutil.Process(pid))
    return list(own.values())


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process; on Linux with those of children that it has waited for.

    Raises
    ------
    psutil.Error
        If it has ended.
    """
    times = process.cpu_times()
    waited_for = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + waited_for)
