"""Profiles and peaks with numbers that are known."""

from __future__ import annotations

from typing import Any

from workbench.measure.profiling.rows import LayerTime, Profile
from workbench.measure.profiling.work import LayerWork
from workbench.measure.rooflines.peaks import MachinePeaks, Peak

ROWS = [("stem", "Conv", 0.30), ("relu", "Relu", 0.10), ("body", "Conv", 0.50), ("head", "Gemm", 0.10)]
WORK = [
    LayerWork("stem", 2_000_000, 400, 4_000, (3, 16)),
    LayerWork("body", 8_000_000, 4_000, 8_000, (16, 32)),
    LayerWork("head", 10_000, 5_000, 100, (32, 10)),
]


def make_profile(rows: Any = ROWS, **more: Any) -> Profile:
    """Return a profile of rows (layer, op, ms, then maybe precision and provider); every plain call takes 1.2 ms."""
    total = sum(row[2] for row in rows) or 1.0
    made = tuple(
        LayerTime(
            layer,
            op,
            ms,
            ms / total,
            rest[0] if rest else "float32",
            rest[1] if len(rest) > 1 else "CPUExecutionProvider",
            None,
            f"node_{place}",
        )
        for place, (layer, op, ms, *rest) in enumerate(rows)
    )
    fields: dict[str, Any] = {
        "task": "t", "label": "float", "backend": "onnxruntime", "device": "cpu", "batch_size": 1, "threads": 2,
        "requested": "float32", "precision": "float32", "quantized": False, "calls": 9, "plain_ms": 1.2,
        "profiled_ms": 1.5, "macs": 5_005_000, "work": tuple(WORK), "modules": frozenset({"stem", "body", "head"}),
    }  # fmt: skip
    fields |= more
    return Profile(rows=made, **{"fast_ms": fields["plain_ms"], **fields})


def make_peaks(**more: Any) -> MachinePeaks:
    """Return 100 GFLOP/s in float32 and 300 in int8, and 20 GB/s: ridges at 5 and 15 operations per byte."""
    peaks = (Peak("float32", 100.0, "torch"), Peak("int8", 300.0, "openvino"))
    fields: dict[str, Any] = {
        "peaks": peaks, "tried": peaks, "copy_gb_s": 20.0, "threads": 2, "device": "cpu",
        "machine": "a machine, 2 cores",         "fingerprint": "0f", "measured": "2026-01-01",
    }  # fmt: skip
    return MachinePeaks(**fields | more)
