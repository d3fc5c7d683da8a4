"""What both users of torch's Inductor compiler share: whether it can run here, and the precautions it needs."""

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
    """Say whether torch and a C++ compiler are here: Inductor writes C++ and has it compiled."""
    status = torch_status(name)
    usual, how = _COMPILERS.get(sys.platform, _LINUX)
    compiler = os.environ.get("CXX", usual)
    if not status.available or shutil.which(compiler) is not None:
        return status
    reason = f"it needs a C++ compiler, and {compiler!r} is not on the PATH"
    return dataclasses.replace(status, available=False, reason=reason, how=how)


def reason_from(error: BaseException) -> str:
    """Return what Inductor says in one line; its own exceptions wrap the one that tells."""
    inner = getattr(error, "inner_exception", None)
    return first_line(inner if isinstance(inner, BaseException) else error).rstrip(".")


def inductor_options(source: ModelSource, device: str) -> dict[str, Any]:
    """Return the options of Inductor for a model: weights frozen into the code, on the CPU and for float models.

    Its integer kernels are what freezing would take for a quantized model. They are wrong on CPUs without VNNI, and
    failed to compile on one with it (torch 2.13), so such a model is computed as it is simulated.
    """
    return {"freezing": device == "cpu" and not source.quantized}
