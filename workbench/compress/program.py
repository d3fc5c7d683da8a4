"""Trace a module into an exported program whose batch may be of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def export_program(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> torch.export.ExportedProgram:
    """Return the program of ``module``; ``shapes`` are the dynamic shapes of the inputs, None for fixed ones.

    Where running the module with stand-ins for its inputs makes the batch a constant (``len(x)`` must give a plain
    number there), the module's bytecode is followed instead, which keeps such a length open. Raises what
    ``torch.export.export`` raised for the first way if neither works.
    """
    try:
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        if shapes is None or "specialized" not in str(error):
            raise
        try:
            return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=True)
        except Exception:  # noqa: BLE001 - the first way's answer names the line of the user's code
            raise error from None
