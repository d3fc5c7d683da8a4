"""Calibrate a captured graph: insert observers, run the calibration samples, convert to integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import GraphModule

from workbench.compress.handlers import Work
from workbench.compress.model_ops import predict_with
from workbench.compress.quantize.annotate import LayerDecision
from workbench.compress.quantize.bias_overflow import prevent_bias_overflow
from workbench.compress.quantize.fixed_range_fake_quant import freeze_ranges
from workbench.compress.quantize.qspec import QdqQuantizer, Scheme
from workbench.core.progress import Progress
from workbench.core.quiet import quiet_torchao
from workbench.tasks.module import copy_module
from workbench.tasks.trees import Tree, tree_map

with quiet_torchao():
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

_BATCH = 32


def prepare(
    graph: GraphModule, scheme: Scheme, excluded: Mapping[str, str], *, training: bool
) -> tuple[GraphModule, list[LayerDecision]]:
    """Insert observers into ``graph``, in place, and return the decision for each layer."""
    quantizer = QdqQuantizer(scheme, excluded, training=training)
    with quiet_torchao():
        prepared: GraphModule = (prepare_qat_pt2e if training else prepare_pt2e)(graph, quantizer)
    return prepared, quantizer.annotator.decisions


def calibrate(prepared: GraphModule, work: Work, scheme: Scheme) -> None:
    """Run the calibration samples through the observers, and freeze the ranges for training."""
    batches = list(work.task.calibration.batches(_BATCH))
    if scheme.step.activations != "static":
        batches = batches[:1]  # one call suffices for weights
    for index, (inputs, _) in enumerate(batches):
        work.progress(Progress("calibrate", index, len(batches)))
        predict_with(prepared, inputs)
    with quiet_torchao():
        freeze_ranges(prepared)


def convert(prepared: GraphModule) -> GraphModule:
    """Return the graph with integers instead of observers."""
    prevent_bias_overflow(prepared)
    with quiet_torchao():
        converted: GraphModule = convert_pt2e(prepared)
    for part in converted.modules():
        part.training = False  # exporters check it
    return converted


def quantized_copy(
    graph: GraphModule, work: Work, scheme: Scheme, excluded: Mapping[str, str]
) -> tuple[GraphModule, list[LayerDecision]]:
    """Return a calibrated and converted copy of ``graph``, and the decision for each layer."""
    prepared, decisions = prepare(copy_module(graph), scheme, excluded, training=False)
    calibrate(prepared, work, scheme)
    return convert(prepared), decisions


def samples(work: Work, count: int) -> Tree:
    """Return the first ``count`` calibration samples as one batch."""
    inputs: Any = work.task.calibration.inputs
    return tree_map(lambda leaf: leaf[:count], inputs)


def quality_of(module: torch.nn.Module, work: Work) -> float:
    """Return the task's metric on the validation split."""
    return work.task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
