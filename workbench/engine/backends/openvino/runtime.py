"""Import OpenVINO without telemetry, share one Core, and inspect graphs."""

from __future__ import annotations

import functools
import sys
from typing import Any

_TELEMETRY = "openvino_telemetry"


@functools.cache
def import_openvino() -> Any:
    """Import OpenVINO with its telemetry package hidden; otherwise the import itself sends a report."""
    absent = object()
    before = sys.modules.get(_TELEMETRY, absent)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if before is absent:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]
    return openvino


@functools.cache
def shared_core() -> Any:
    """Return the only Core of this process, which lives until the process ends.

    A Core installs a stack for signal handlers and restores the previous one on deletion. If two Cores are deleted in
    creation order, a freed stack is left behind, and the next signal (Ctrl-C) ends the process.
    """
    return import_openvino().Core()


def computes_float64(model: Any) -> bool:
    """Return whether a model has float64 values besides constants."""
    return any(
        output.get_element_type().get_type_name() == "f64"
        for node in model.get_ops()
        if node.get_type_name() != "Constant"
        for output in node.outputs()
    )


def rounds_on_the_fly(model: Any) -> bool:
    """Return whether a matrix product has int8 weights and a float input, which OpenVINO quantizes at run time."""
    return any(
        op.get_type_name() == "MatMul"
        and _from_int8(op.input_value(1).get_node())
        and not _from_int8(op.input_value(0).get_node())
        for op in model.get_ops()
    )


def _from_int8(node: Any) -> bool:
    """Return whether a value is a dequantized integer."""
    while node.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape", "Transpose"):
        node = node.input_value(0).get_node()
        if node.get_output_element_type(0).get_type_name() in ("i8", "u8", "i4", "u4"):
            return True
    return bool(node.get_type_name() == "FakeQuantize")
