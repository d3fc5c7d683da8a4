"""What Olive is asked: its workflows, as plain values. Read by its own environment, and imports nothing of either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MOST = 60
"""Of the samples of a workflow: asked for more than there are, Olive's TPE sampler never comes back."""


def data(name: str, batch: int) -> dict[str, Any]:
    """Return Olive's description of a registered data set."""
    loader = {"type": "default_dataloader", "params": {"batch_size": batch}}
    plain = {"type": "skip_pre_process"}
    kept = {"type": "skip_post_process"}
    return {
        "name": name,
        "type": "DataContainer",
        "load_dataset_config": {"type": name},
        "pre_process_data_config": plain,
        "post_process_data_config": kept,
        "dataloader_config": loader,
    }


def flows(job: dict[str, Any], script: str) -> dict[str, tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Return sampler and passes of each workflow; a list of passes holds alternatives, and the search takes one."""
    named, unnamed = data("search_calibration", 1), data("search_calibration_unnamed", 1)
    convert = {"type": "OpenVINOConversion", "static": False, "compress_to_fp16": False}
    nncf = [
        {"type": kind, "data_config": unnamed, "preset": preset, "max_drop": job["limit"]}
        for kind in ("OpenVINOQuantization", "OpenVINOQuantizationWithAccuracy")
        for preset in ("PERFORMANCE", "MIXED")
    ]
    static = {"type": "OnnxStaticQuantization", "data_config": named}
    fed = {"user_script": script, "transform_fn": "feed"}
    return {
        "OpenVINO passes": ("sequential", {"convert": [convert], "quantize": nncf}),
        "ONNX Runtime's quantization, run by OpenVINO": ("tpe", {"quantize": [static], "convert": [convert]}),
        "ONNX Runtime's quantization": ("tpe", {"quantize": [static]}),
        "other quantization, run by ONNX Runtime": (
            "sequential",
            {"quantize": [{"type": "OnnxDynamicQuantization"}, *({**one, **fed} for one in nncf)]},
        ),
    }


def config(
    job: dict[str, Any], script: str, sampler: str, passes: dict[str, Any], folder: Path, seconds: float
) -> dict[str, Any]:
    """Return Olive's configuration of one workflow."""
    goal = {"type": "max-degradation", "value": job["limit"]}
    of_classes = {"task": "multiclass", "num_classes": job["classes"]}
    metrics = [
        {
            "name": "accuracy",
            "type": "accuracy",
            "sub_types": [{"name": "accuracy_score", "priority": 2, "goal": goal, "metric_config": of_classes}],
        },
        {"name": "latency", "type": "latency", "sub_types": [{"name": "p50", "priority": 1}]},
    ]
    return {
        "workflow_id": folder.name,
        "input_model": {"type": "OnnxModel", "model_path": job["float"]},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "evaluators": {"judge": {"type": "SearchEvaluator", "metrics": metrics}},
        "passes": passes,
        "search_strategy": {
            "execution_order": "joint",
            "sampler": sampler,
            "sampler_config": {"max_samples": MOST, **({"seed": job["seed"]} if sampler == "tpe" else {})},
            "max_time": max(1, int(seconds)),
            "max_iter": 1000,
        },
        "evaluator": "judge",
        "host": "here",
        "target": "here",
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
        "log_severity_level": 2,
    }
