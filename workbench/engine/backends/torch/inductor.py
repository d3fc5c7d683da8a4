"""Status and options of torch's Inductor compiler."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from typing import Any

from workbench.core.errors import first_line
from workbench.engine.backends.base import Availability, ModelSource
from workbench.engine.backends.torch.session import torch_status

_COMPILERS = {"darwin": ("clang++", "xcode-select --install")}
_LINUX = ("g++", "sudo apt-get install g++")


def inductor_status(name: str) -> Availability:
    """Return whether torch and a C++ compiler, which Inductor calls, are installed."""
    status = torch_status(name)
    usual, how = _COMPILERS.get(sys.platform, _LINUX)
    compiler = os.environ.get("CXX", usual)
    if not status.available or shutil.which(compiler) is not None:
        return status
    reason = f"it needs a C++ compiler, and {compiler!r} is not on the PATH"
    return dataclasses.replace(status, available=False, reason=reason, how=how)


def reason_from(error: BaseException) -> str:
    """Return the first line of an error; Inductor wraps the original exception."""
    inner = getattr(error, "inner_exception", None)
    return first_line(inner if isinstance(inner, BaseException) else error).rstrip(".")


def inductor_options(source: ModelSource, device: str) -> dict[str, Any]:
    """Return Inductor's options: frozen weights for float models on the CPU.

    For a quantized model freezing selects integer kernels, which are wrong on CPUs without VNNI and failed to compile
    on one with it (torch 2.13). Such a model runs as simulated.
    """
    return {"freezing": device == "cpu" and not source.quantized}
