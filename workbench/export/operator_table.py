"""Torch's table of ONNX operators, read once in a process: torch makes it anew in each export, in 0.4 s."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def keep_operator_table() -> None:
    """Let every later ``torch.onnx.export`` of this process start from a copy of one table; do nothing if it has none.

    A copy, because an export with translations of its own adds them to its table.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = functools.cache(ONNXRegistry.from_torchlib)
        copied_registry(read(), ONNXRegistry)
    except (ImportError, AttributeError, TypeError):  # another version of torch
        return
    ONNXRegistry.from_torchlib = staticmethod(  # type: ignore[method-assign]
        lambda *arguments, **options: copied_registry(read(*arguments, **options), ONNXRegistry)
    )


def copied_registry(table: Any, kind: Any) -> Any:
    """Return a table with the same operators that can be changed alone."""
    copy = kind()
    copy._opset_version = table._opset_version
    copy.functions = {target: list(functions) for target, functions in table.functions.items()}
    return copy
