"""Timing alone: one worker of a host at a time."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from workbench.study.child import Stop

_POLL_S = 0.5


def lock_file() -> Path:
    """Return the file that the workers of one user on one host lock while they time."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return Path(tempfile.gettempdir()) / f"workbench-timing-{user}.lock"


@contextlib.contextmanager
def alone(stop: Stop, waiting: Callable[[], None]) -> Iterator[float]:
    """Hold this host for a timing, and yield how many seconds that took; a process that dies gives it free.

    Workers in containers of their own, and those of another user, do not see each other's lock: give such hosts one
    worker. ``waiting`` is called while another has it; a stop ends the wait.

    Raises
    ------
    Cancelled, OutOfTime
        When the stop was asked for.
    """
    lock, started = FileLock(lock_file()), time.monotonic()
    while True:
        stop.check()
        try:
            lock.acquire(timeout=_POLL_S)
            break
        except Timeout:
            waiting()
    try:
        yield time.monotonic() - started
    finally:
        lock.release()
