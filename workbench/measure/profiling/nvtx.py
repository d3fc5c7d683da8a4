"""NVTX ranges for NVIDIA's profilers, and command lines that profile one engine."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

from workbench.core.checks import given, require_int, require_path
from workbench.core.errors import ConfigError
from workbench.engine.device import check_device
from workbench.engine.names import is_backend, unknown_backend

RANGE = "workbench"
TOOLS = ("nsys", "ncu")
# both record only between torch.cuda.profiler.start and stop, without loading and warm-up
_COMMANDS = {
    "nsys": ("nsys", "profile", "--trace=cuda,nvtx,osrt,cudnn,cublas", "--capture-range=cudaProfilerApi",
             "--capture-range-end=stop", "--force-overwrite=true"),
    "ncu": ("ncu", "--set=full", "--nvtx", "--profile-from-start=off", "--target-processes=all", "--force-overwrite"),
}  # fmt: skip


def nvtx_reason() -> str | None:
    """Return why NVTX ranges are unavailable, or None."""
    try:
        import torch
    except ImportError:
        return "NVTX ranges require torch, which is not installed"
    if not torch.cuda.is_available():
        return "NVTX ranges require a CUDA device, and torch finds none"
    return None


@contextlib.contextmanager
def annotated(name: str) -> Iterator[str | None]:
    """Put an NVTX range around a block; yield the reason if NVTX is unavailable."""
    reason = nvtx_reason()
    if reason is not None:
        yield reason
        return
    import torch

    torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
    try:
        yield None
    finally:
        torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def captured() -> Iterator[None]:
    """Start and stop the CUDA profiler around a block; do nothing without a CUDA device."""
    if nvtx_reason() is not None:
        yield
        return
    import torch

    torch.cuda.synchronize()
    torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
    try:
        yield
        torch.cuda.synchronize()
    finally:
        torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


def annotate_calls(call: Callable[[], Any], name: str, *, calls: int) -> str | None:
    """Call ``calls`` times in numbered ranges within one named ``workbench``; return the reason without ranges."""
    with captured(), annotated(RANGE) as missing:
        for number in range(calls):
            with annotated(f"{name}, call {number}"):
                call()
    return missing


def nsight_command(
    artifact: str | os.PathLike[str],
    *,
    tool: str = "nsys",
    backend: str = "torch-eager",
    batch_size: int = 1,
    device: str = "cuda",
    precision: str = "float32",
    threads: int | None = None,
    calls: int = 20,
    task: str | None = None,
    trust: bool = False,
    output: str | os.PathLike[str] = "workbench-profile",
) -> str:
    """Return the command line that profiles one engine with NVIDIA's Nsight Systems or Nsight Compute.

    ``python -m workbench.measure.profiling.replay`` loads the artifact, warms up and makes a few calls in NVTX ranges;
    only those are recorded.

    Parameters
    ----------
    tool : str
        ``nsys`` for a timeline, ``ncu`` for the counters of every kernel (by replay).
    task : str, optional
        Task of the artifact, required by torch's backends.
    trust : bool
        Allow torch's backends to run code that the artifact names.
    output : path
        Report file without its suffix.

    Examples
    --------
    >>> print(nsight_command("artifacts/int8", backend="onnxruntime", batch_size=8, calls=5))  # doctest: +SKIP
    nsys profile --trace=cuda,nvtx,osrt,cudnn,cublas ... python -m workbench.measure.profiling.replay artifacts/int8 ...
    """
    folder = require_path("nsight_command: artifact", artifact)
    if tool not in TOOLS:
        raise ConfigError(f"nsight_command: tool must be 'nsys' or 'ncu', got {given(tool)}.")
    if not isinstance(backend, str) or not is_backend(backend):
        raise ConfigError(f"nsight_command: {unknown_backend(backend)}")
    check_device(device, use_gpu=False)
    for word, count in (("batch_size", batch_size), ("calls", calls), ("threads", 1 if threads is None else threads)):
        require_int(f"nsight_command: {word}", count)
    name = ("--output", str(output)) if tool == "nsys" else ("--export", str(output))
    options = {"--backend": backend, "--batch-size": batch_size, "--device": device, "--precision": precision}
    options |= {"--calls": calls, "--threads": threads, "--task": task}
    replay = [str(part) for option in options.items() if option[1] is not None for part in option]
    python = [sys.executable or "python", "-m", "workbench.measure.profiling.replay"]
    return shlex.join([*_COMMANDS[tool], *name, *python, str(folder), *replay, *(["--trust"] if trust else [])])
