"""NNCF's quantization with control of accuracy, on OpenVINO."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_common import BATCH, CALIBRATION, LIMIT, Candidate, Say, Setting
from workbench.core.machine import library_versions
from workbench.engine.backends.openvino.runtime import import_openvino, shared_core
from workbench.timing.interleave import CallArm, interleave


def run_nncf(setting: Setting, seed: int, folder: Path, notify: Say) -> Candidate:
    """Quantize with NNCF under its control of accuracy, in both presets and both bias corrections.

    NNCF does not look at latency. Of what it gives the fastest is taken, as timed here on OpenVINO's defaults.
    """
    openvino = import_openvino()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # NNCF reports to its maker else
    import nncf

    task, begun = setting.task, time.monotonic()
    images = task.calibration.inputs.numpy()
    order = np.random.default_rng(seed).permutation(len(images))[:CALIBRATION]
    calibration = nncf.Dataset([images[i : i + 1] for i in order])
    held_out = [(inputs.numpy(), labels.numpy()) for inputs, labels in task.validation.batches(50)]

    def accuracy(compiled: Any, batches: Any) -> float:
        return float(np.mean(np.concatenate([compiled(x)[0].argmax(1) == labels for x, labels in batches])))

    base = accuracy(shared_core().compile_model(str(setting.onnx), "CPU"), held_out)
    found: list[tuple[str, Path, float]] = []
    notes: list[str] = []
    kinds = [(preset, fast) for fast in (True, False) for preset in ("PERFORMANCE", "MIXED")]
    for number, (preset, fast) in enumerate(kinds):
        if time.monotonic() - begun > setting.seconds:
            break
        words = f"quantize_with_accuracy_control(preset={preset}, fast_bias_correction={fast})"
        notify(f"nncf, seed {seed}: {words}")
        try:
            model = nncf.quantize_with_accuracy_control(
                shared_core().read_model(str(setting.onnx)),
                calibration,
                nncf.Dataset(held_out, lambda pair: pair[0]),
                validation_fn=accuracy,
                max_drop=LIMIT,
                drop_type=nncf.DropType.ABSOLUTE,
                preset=nncf.QuantizationPreset[preset],
                subset_size=CALIBRATION,
                fast_bias_correction=fast,
            )
        except Exception as error:  # noqa: BLE001 - the page tells it, and the other kinds are tried
            notes.append(f"{words}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            continue
        path = folder / f"nncf-{number}.xml"
        openvino.save_model(model, str(path), compress_to_fp16=False)
        after = accuracy(shared_core().compile_model(model, "CPU"), held_out)
        found.append((words, path, base - after))
    spent = {"tried": len(found), "by_itself": len(found) + len(notes) == len(kinds), "notes": tuple(notes),
             "versions": library_versions(("nncf", "openvino"))}  # fmt: skip
    held = [one for one in found if one[2] <= LIMIT + 1e-9]
    if not held:
        return Candidate.nothing("nncf", seed, time.monotonic() - begun, setting.seconds, **spent)
    times = _timed({str(path): _compiled(path, setting) for _, path, _ in held})
    words, path, drop = min(held, key=lambda one: times[str(one[1])])
    for _, other, _ in found:
        if other != path:
            other.unlink()
            other.with_suffix(".bin").unlink()
    return Candidate(
        "nncf", seed, words, {"backend": "openvino", "precision": "auto"}, path.name, time.monotonic() - begun,
        setting.seconds, validation_drop=drop, own_ms=times[str(path)], **spent,
    )  # fmt: skip


def _compiled(path: Path, setting: Setting) -> Callable[[], Any]:
    images = np.ascontiguousarray(setting.task.validation.inputs[:BATCH].numpy())
    model = shared_core().read_model(str(path))
    model.reshape(list(images.shape))
    options = {"INFERENCE_NUM_THREADS": setting.threads, "PERFORMANCE_HINT": "LATENCY"}
    request = shared_core().compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer({0: images})


def _timed(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    arms = [CallArm(name, call) for name, call in calls.items()]
    for arm in arms:
        arm.warm()
    blocks = interleave(arms, rounds=(10, 10)).blocks
    return {name: float(np.median([np.median(block) for block in found])) for name, found in blocks.items()}
