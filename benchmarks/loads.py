"""Planted load: other work on this machine, of a known kind, while something is measured.

    with planted("half"):
        ...

Kinds: ``none``; ``half``, one core busy half of the time; ``bursts``, both cores busy in bursts of 0.2 to 3 s with
pauses of the same length; ``openmp``, a neighbor that trains a convolution on all cores without a pause; ``busy``, one
core busy all the time. The load runs in processes that are not children of the one that measures, as that of others.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = {
    "none": "nothing",
    "half": "one core busy half of the time",
    "bursts": "both cores busy in bursts of 0.2 to 3 s",
    "openmp": "a neighbor that trains on all cores",
    "busy": "one core busy all the time",
}
_PROCESSES = {"none": 0, "half": 1, "bursts": 2, "openmp": 1, "busy": 1}
_HALF_S = 0.25
_BURST_S = (0.2, 3.0)
_START = (
    "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr).pid)"
)


@contextlib.contextmanager
def planted(kind: str) -> Iterator[None]:
    """Run a kind of load within a ``with`` block; it ends with the block, or with this process."""
    begun = time.time() + 1.0
    pids = [_start(kind, begun) for _ in range(_PROCESSES[kind])]
    try:
        time.sleep(5.0 if kind == "openmp" else 1.5 if pids else 0.0)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _start(kind: str, begun: float) -> int:
    """Start a load whose parent ends at once, so that it belongs to nobody here."""
    command = [sys.executable, "-m", "benchmarks.loads", kind, str(begun), str(os.getpid())]
    started = subprocess.run(
        [sys.executable, "-c", _START, *command],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    return int(started.stdout)


def _spin(until: float) -> None:
    while time.time() < until:
        pass


def _half(draw: random.Random) -> None:
    _spin(time.time() + draw.expovariate(1 / _HALF_S))
    time.sleep(draw.expovariate(1 / _HALF_S))


@functools.cache
def _model() -> tuple[Any, Any]:
    import torch

    layers = torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 16, 3, padding=1)
    return torch.nn.Sequential(*layers), torch.randn(16, 16, 32, 32)


def _train() -> None:
    model, inputs = _model()
    model(inputs).sum().backward()


def main() -> None:
    """Make load until the process that asked for it is gone."""
    kind, at, asker = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(0)
    while Path(f"/proc/{asker}").exists():
        if kind == "half":
            _half(draw)
        elif kind == "bursts":  # both processes draw the same numbers and go by the same clock
            busy_s, free_s = draw.uniform(*_BURST_S), draw.uniform(*_BURST_S)
            _spin(at + busy_s)
            at += busy_s + free_s
            time.sleep(max(0.0, at - time.time()))
        elif kind == "openmp":
            _train()
        else:
            _spin(time.time() + 1.0)


if __name__ == "__main__":
    main()
