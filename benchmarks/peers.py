"""What the benchmark compares with: each library alone, used as its own documentation shows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from workbench.tasks import Task

BATCH = 128


def torch_pruning_alone(task: Task, ratio: float, epochs: float, notify: Callable[[str], None]) -> nn.Module:
    """Return the model with ``ratio`` of the channels inside its blocks cut by torch-pruning, trained on the labels.

    The channels of the residual stream stay: the shortcut's padding is fixed in ``forward``, and torch-pruning cuts
    it wrong. SGD with Nesterov momentum, 0.05 falling to 0 by a cosine, as the fine-tuning scripts of its repository.
    """
    import torch_pruning

    model = task.model()
    inside = {module.conv1 for name, module in model.named_modules() if hasattr(module, "conv2")}
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in inside]
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        task.examples(2),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=8,
        ignored_layers=layers,
    )
    pruner.step()
    if epochs:
        _train(model, task, epochs, notify)
    return model.eval()


def _train(model: nn.Module, task: Task, epochs: float, notify: Callable[[str], None]) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = task.train.inputs, task.train.targets
    steps = round(epochs * (len(images) // BATCH))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best: tuple[float, dict[str, torch.Tensor]] = (-1.0, {})
    batches = _batches(len(images), generator)
    model.train()
    for step in range(1, steps + 1):
        index = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(task.augment(images[index], generator))  # type: ignore[misc]
        loss = functional.cross_entropy(outputs.float(), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % (len(images) // BATCH) == 0 or step == steps:
            quality = task.evaluate(model.eval(), split="validation")
            notify(f"torch-pruning: step {step} of {steps}, loss {loss.item():.3f}, validation {quality:.4f}")
            best = max(best, (quality, copy.deepcopy(model.state_dict())), key=lambda pair: pair[0])
            model.train()
    model.load_state_dict(best[1])


def _batches(count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def _calibration(task: Task) -> list[np.ndarray]:
    return [inputs.numpy() for inputs, _ in task.calibration.batches(32)]


def onnxruntime_alone(task: Task, float_onnx: Path, path: Path) -> None:
    """Write what onnxruntime.quantization makes of the float model: static, QDQ, weights per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    batches = _calibration(task)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._rest = iter([{"x": batch} for batch in batches])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._rest, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(float_onnx), str(prepared))
    quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


def nncf_alone(task: Task, float_onnx: Path, path: Path) -> None:
    """Write what nncf.quantize makes of the float model in OpenVINO's own format."""
    from workbench.engine.backends.openvino.runtime import import_openvino, shared_core

    openvino = import_openvino()
    import nncf

    model = shared_core().read_model(str(float_onnx))
    dataset = nncf.Dataset(_calibration(task))
    quantized = nncf.quantize(model, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(_calibration(task)))
    openvino.save_model(quantized, str(path), compress_to_fp16=False)
