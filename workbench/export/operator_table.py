"""Torch's table of ONNX operators, read once in a process: torch makes it anew in each export."""

from __future__ import annotations

import functools
from typing import Any

import torch


@functools.cache
def keep_operator_table() -> None:
    """Let every later ``torch.onnx.export`` of this process start from a copy of one table; do nothing if it has none.

    A copy, because an export with translations of its own adds them to its table. The table is read again after
    operators were registered: an operator that is missing when it is read is left out.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read_now = ONNXRegistry.from_torchlib
        copied_registry(ONNXRegistry())
        registered_operators()
    except (ImportError, AttributeError):  # another version of torch
        return

    @functools.lru_cache(maxsize=4)
    def read(_registered: int, *arguments: Any, **options: Any) -> Any:
        return read_now(*arguments, **options)

    ONNXRegistry.from_torchlib = staticmethod(  # type: ignore[method-assign]
        lambda *arguments, **options: copied_registry(read(registered_operators(), *arguments, **options))
    )


def registered_operators() -> int:
    """Return the number of operators that torch has now."""
    return len(torch._C._dispatch_get_all_op_names())


def copied_registry(table: Any) -> Any:
    """Return a table with the same operators that can be changed alone."""
    copy = type(table)()
    copy._opset_version = table._opset_version
    copy.functions = {target: list(functions) for target, functions in table.functions.items()}
    return copy
