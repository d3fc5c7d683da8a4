"""Rows as a study would give them, with numbers that make every branch of the charts appear."""

from __future__ import annotations

from typing import Any

import pytest

# recipe, technique, quality, (ms at batch 1, 8, 32) for torch-eager, onnxruntime, openvino
POINTS: list[tuple[str, str, float, dict[str, tuple[float, float, float]]]] = [
    (
        "float",
        "float",
        0.9712,
        {"torch-eager": (2.9, 8.1, 27.0), "onnxruntime": (0.9, 5.2, 18.9), "openvino": (0.8, 4.9, 17.2)},
    ),
    (
        "prune",
        "prune",
        0.9588,
        {"torch-eager": (2.7, 5.0, 14.2), "onnxruntime": (0.6, 2.6, 8.8), "openvino": (0.5, 2.4, 8.1)},
    ),
    (
        "distill",
        "distill",
        0.9661,
        {"torch-eager": (2.7, 5.0, 14.1), "onnxruntime": (0.6, 2.6, 8.7), "openvino": (0.5, 2.4, 8.0)},
    ),
    (
        "factorize",
        "factorize",
        0.9670,
        {"torch-eager": (4.1, 8.8, 26.1), "onnxruntime": (1.1, 4.8, 17.9), "openvino": (0.9, 4.4, 16.0)},
    ),
    (
        "quantize",
        "quantize",
        0.9705,
        {"torch-eager": (2.9, 8.1, 27.3), "onnxruntime": (0.7, 3.2, 12.1), "openvino": (0.5, 2.4, 8.9)},
    ),
    (
        "prune+distill+qat",
        "chain",
        0.9652,
        {"torch-eager": (2.8, 5.1, 14.3), "onnxruntime": (0.5, 1.7, 5.9), "openvino": (0.4, 1.3, 4.4)},
    ),
]
RSS = {"torch-eager": 318.0, "onnxruntime": 92.0, "openvino": 141.0}
BASE = POINTS[0]


def step(kind: str, label: str, before: tuple[float, int, int], after: tuple[float, int, int]) -> dict[str, Any]:
    """Return one StepReport as a dict: (quality, params, macs) before and after."""
    return {
        "step": {"step": kind},
        "label": label,
        "layers": [
            {"name": "stem", "type": "Conv2d", "touched": True, "reason": ""},
            {"name": "stage1.0.conv1", "type": "Conv2d", "touched": True, "reason": ""},
            {"name": "head", "type": "Linear", "touched": False, "reason": "its output dimension is the task's"},
        ],
        "quality_before": before[0],
        "quality_after": after[0],
        "params_before": before[1],
        "params_after": after[1],
        "macs_before": before[2],
        "macs_after": after[2],
        "seconds": 12.5,
        "epochs_done": 2.4,
        "notes": [],
    }


FLOAT = (0.9740, 296_000, 42_000_000)
PRUNED = (0.9120, 148_000, 15_500_000)
DISTILLED = (0.9690, 148_000, 15_500_000)
QUANTIZED = (0.9675, 148_000, 15_500_000)
FACTORED = (0.9695, 190_000, 30_100_000)
STEPS = {
    "float": [],
    "prune": [step("Prune", "prune 0.5", FLOAT, PRUNED)],
    "distill": [step("Prune", "prune 0.5", FLOAT, PRUNED), step("Distill", "distill", PRUNED, DISTILLED)],
    "factorize": [step("Factorize", "factorize 0.9", FLOAT, FACTORED)],
    "quantize": [step("Quantize", "int8", FLOAT, (0.9732, 296_000, 42_000_000))],
    "prune+distill+qat": [
        step("Prune", "prune 0.5", FLOAT, PRUNED),
        step("Distill", "distill", PRUNED, DISTILLED),
        step("Quantize", "int8 (QAT)", DISTILLED, QUANTIZED),
    ],
}


def make_rows() -> list[dict[str, Any]]:
    """Return 54 complete rows: 6 recipes x 3 backends x 3 batch sizes."""
    rows = []
    for number, (recipe, technique, quality, times) in enumerate(POINTS):
        for backend, values in times.items():
            for batch, latency in zip((1, 8, 32), values, strict=True):
                base = BASE[3]["torch-eager"][(1, 8, 32).index(batch)]
                drop = BASE[2] - quality
                params, macs = (STEPS[recipe] or [{"params_after": FLOAT[1], "macs_after": FLOAT[2]}])[-1], None
                rows.append(
                    {
                        "task": "digits",
                        "recipe": recipe,
                        "recipe_id": f"{number:012x}",
                        "backend": backend,
                        "batch_size": batch,
                        "threads": 2,
                        "state": "complete",
                        "quality": quality,
                        "quality_drop": drop,
                        "quality_drop_low": drop - 0.003 if recipe != "float" else drop,
                        "quality_drop_high": drop + 0.003 if recipe != "float" else drop,
                        "latency_ms_p50": latency,
                        "latency_ms_iqr": latency * 0.06,
                        "latency_ms_p90": latency * 1.1,
                        "latency_ms_p99": None,
                        "latency_ms_low": latency * 0.97,
                        "latency_ms_high": latency * 1.04,
                        "throughput_per_s": batch / latency * 1000,
                        "peak_rss_mib": RSS[backend] + batch * 0.4 + number,
                        "size_mib": params["params_after"] * (1 if "q" in recipe else 4) / 2**20,
                        "params": params["params_after"],
                        "macs": params["macs_after"] if macs is None else macs,
                        "speedup": base / latency,
                        "speedup_low": base / latency * 0.95,
                        "speedup_high": base / latency * 1.05,
                        "verdict": "same" if recipe == "float" and backend == "torch-eager" else "faster",
                        "recommended": (recipe, backend, batch) == ("prune+distill+qat", "openvino", 32),
                        "max_abs_diff": 2.1e-6,
                        "load_s": 0.41,
                        "prepare_s": 31.0,
                        "technique": technique,
                        "steps": STEPS[recipe],
                        "task_fingerprint": "0123456789ab",
                        "fingerprint": "ba9876543210",
                        "candidates": 6,
                        "notes": {"latency_ms_p99": "needs 368 samples, 120 were taken"},
                        "error": None,
                    }
                )
    return rows


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Rows of a study that went well."""
    return make_rows()
