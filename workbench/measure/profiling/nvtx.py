"""Ranges that NVIDIA's profilers show beside the kernels, and the command lines that profile one engine with them."""

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
# both record only between torch.cuda.profiler.start and stop: loading and warming up are left out
_COMMANDS = {
    "nsys": ("nsys", "profile", "--trace=cuda,nvtx,osrt,cudnn,cublas", "--capture-range=cudaProfilerApi",
             "--capture-range-end=stop", "--force-overwrite=true"),
    "ncu": ("ncu", "--set=full", "--nvtx", "--profile-from-start=off", "--target-processes=all", "--force-overwrite"),
}  # fmt: skip


def nvtx_reason() -> str | None:
    """Return why ranges are not recorded here, None where they are."""
    try:
        import torch
    except ImportError:
        return "NVTX ranges are made through torch, which is not installed"
    if not torch.cuda.is_available():
        return "NVTX ranges are for NVIDIA's profilers, and torch finds no CUDA device here"
    return None


@contextlib.contextmanager
def annotated(name: str) -> Iterator[str | None]:
    """Put an NVTX range around a block; where there is no CUDA device do nothing, and give the reason.

    Examples
    --------
    >>> with annotated("first batch") as missing:  # doctest: +SKIP
    ...     engine.predict(x)
    """
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
    """Let a profiler that waits for it record the block alone; without a CUDA device do nothing."""
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
    """Call ``calls`` times, each in a numbered range within one named ``workbench``; return why there were none."""
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

    ``python -m workbench.measure.profiling.replay`` is one process that loads the artifact, warms up and makes a few
    calls within NVTX ranges; only those are recorded. A study's own processes would fill the trace with the calls of
    all arms.

    Parameters
    ----------
    artifact : path
        The folder of an artefact.
    tool : str
        ``nsys`` for the timeline of a call, ``ncu`` for the counters of every kernel (each is run many times).
    task : str, optional
        What the artefact was made for: torch's backends need it.
    trust : bool
        Let torch's backends run code that the artefact names.
    output : path
        Of the report, without its ending.

    Raises
    ------
    ConfigError
        If an argument is wrong.

    Examples
    --------
    >>> print(nsight_command("artefacts/int8", backend="onnxruntime", batch_size=8, calls=5))  # doctest: +SKIP
    nsys profile --trace=cuda,nvtx,osrt,cudnn,cublas ... python -m workbench.measure.profiling.replay artefacts/int8 ...
    """
    folder = require_path("nsight_command: artifact", artifact)
    if tool not in TOOLS:
        raise ConfigError(f"nsight_command: tool must be 'nsys' or 'ncu', got {given(tool)}.")
    if not isinstance(backend, str) or not is_backend(backend):
        raise ConfigError(f"nsight_command: {unknown_backend(backend)}")
    check_device(device, use_gpu=False)
    require_int("nsight_command: batch_size", batch_size)
    require_int("nsight_command: calls", calls)
    if threads is not None:
        require_int("nsight_command: threads", threads)
    name = ("--output", str(output)) if tool == "nsys" else ("--export", str(output))
    replay = ["--backend", backend, "--batch-size", str(batch_size), "--device", device, "--precision", precision]
    replay += ["--calls", str(calls)]
    replay += [] if threads is None else ["--threads", str(threads)]
    replay += [] if task is None else ["--task", task]
    replay += ["--trust"] if trust else []
    python = [sys.executable or "python", "-m", "workbench.measure.profiling.replay"]
    return shlex.join([*_COMMANDS[tool], *name, *python, str(folder), *replay])
