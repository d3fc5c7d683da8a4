"""Import OpenVINO without telemetry, and share one Core."""

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
