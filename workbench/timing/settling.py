"""Warm up, discard settling calls after a switch between arms, and wait until worker threads are idle."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SETTLE_S = 0.05
"""OpenVINO's first calls after another runtime has run take 1.5 times as long, for up to 30 ms."""
STEADY = 0.05
"""Two paces agree if the later is at most this share slower (settling) or faster (warm-up)."""
_SETTLE_WINDOW_S = 0.01
_WARM_WINDOW_S, _WARM_LIMIT_S = 0.03, 1.0
_IDLE_LIMIT_S, _POLL_S = 0.1, 0.002
_LONG_POLL_S, _BUSY = 0.01, 0.3  # some systems count the time of running threads in steps of 10 ms
_TASKS = Path("/proc/self/task")


def run_for(call: Callable[[], object], seconds: float) -> list[float]:
    """Call until ``seconds`` have passed, at least once; return ms per call."""
    clock = time.perf_counter
    samples = []
    last = clock()
    end = last + seconds
    while True:
        call()
        now = clock()
        samples.append((now - last) * 1e3)
        last = now
        if now >= end:
            return samples


def run_calls(call: Callable[[], object], count: int) -> list[float]:
    """Call ``count`` times; return ms per call."""
    samples = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        samples.append((time.perf_counter() - begun) * 1e3)
    return samples


def warm_until_steady(
    call: Callable[[], object], *, window_s: float = _WARM_WINDOW_S, limit_s: float = _WARM_LIMIT_S
) -> tuple[int, bool]:
    """Call until two windows in a row agree; return (calls, steady).

    A window is ``window_s`` of calls, at least two; windows agree if the later median is at most 5 % below the earlier.
    Gives up after ``limit_s`` with ``steady`` False.
    """
    end = time.perf_counter() + limit_s
    call()
    calls, previous = 1, float("inf")
    while True:
        samples = run_for(call, window_s)
        if len(samples) < 2:
            samples += run_for(call, 0.0)
        calls += len(samples)
        current = float(np.median(samples))
        if previous < float("inf") and current >= previous * (1 - STEADY):
            return calls, True
        previous = current
        if time.perf_counter() >= end:
            return calls, False


def settle(call: Callable[[], object], limit_s: float, *, usual_ms: float = 0.0) -> None:
    """Discard calls until 10 ms of them are within 5 % of ``usual_ms``, for at most ``limit_s``."""
    end = time.perf_counter() + limit_s
    while (left := end - time.perf_counter()) > 0:
        if np.median(run_for(call, min(left, _SETTLE_WINDOW_S))) <= usual_ms * (1 + STEADY):
            return


def wait_until_idle(*, limit_s: float = _IDLE_LIMIT_S) -> None:
    """Sleep until no other thread of this process needs a core, for at most ``limit_s``.

    After a call a runtime's workers spin in case another one comes: ONNX Runtime's for 40 ms, and for longer if they
    share their core. The arm timed next would share it with them, also in a process of its own.
    """
    end = time.perf_counter() + limit_s
    while _others_runnable() and time.perf_counter() < end:
        time.sleep(_POLL_S)


def _others_runnable() -> bool:
    """Return True if other threads of this process run or wait for a core; without /proc, if they used CPU time."""
    me = threading.get_native_id()
    try:
        return any(path.name != str(me) and _state(path) == "R" for path in _TASKS.iterdir())
    except OSError:
        used = time.process_time()
        time.sleep(_LONG_POLL_S)
        return time.process_time() - used > _BUSY * _LONG_POLL_S


def _state(task: Path) -> str:
    with contextlib.suppress(OSError):  # the thread has ended
        return (task / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    return ""
