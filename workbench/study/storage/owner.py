"""Owners of trials: an id for each run, and whether it is alive."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
import uuid
from pathlib import Path

STALE_S = 30.0
"""Longest time without a heartbeat of a living run."""


def new_owner() -> str:
    """Return a name for one run: host, process and a random part."""
    return f"{_processes()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@functools.cache
def _processes() -> str:
    """Return an id of this PID namespace: host, boot and container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
        parts.append(Path("/proc/self/ns/pid").readlink().name.strip("pid:[]"))
    return "/".join(parts)


def is_stale(owner: str, heartbeat: float | None, *, now: float | None = None) -> bool:
    """Return whether a run is dead: its process has gone from this host, or it had no heartbeat for 30 s.

    A process in another container of this host is judged by its heartbeat only.
    """
    import psutil

    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host == _processes() and rest.isdigit() and not psutil.pid_exists(int(rest)):
        return True
    return heartbeat is None or (time.time() if now is None else now) - heartbeat > STALE_S
