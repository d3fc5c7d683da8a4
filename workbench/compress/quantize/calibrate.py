"""From a captured graph to one that rounds: observers in, calibration samples through, integers out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import GraphModule

from workbench.compress.graph.torchao_import import quiet_torchao
from workbench.compress.handlers import Work
from workbench.compress.model_ops import predict_with
from workbench.compress.quantize.annotate import Touch
from workbench.compress.quantize.bias_overflow import make_room
from workbench.compress.quantize.qspec import Scheme, make_quantizer
from workbench.core.progress import Progress
from workbench.tasks.module import copied_module
from workbench.tasks.trees import Tree, tree_map

_BATCH = 32


def prepare(
    graph: GraphModule, scheme: Scheme, excluded: Mapping[str, str], *, training: bool
) -> tuple[GraphModule, list[Touch]]:
    """Put observers into ``graph`` itself, and say which layers they quantize."""
    quantizer = make_quantizer(scheme, excluded, training=training)
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

        prepared: GraphModule = (prepare_qat_pt2e if training else prepare_pt2e)(graph, quantizer)
    return prepared, quantizer.annotator.touches


def calibrate(prepared: GraphModule, work: Work, scheme: Scheme) -> None:
    """Show the observers the calibration samples, and fix the ranges where training follows."""
    from workbench.compress.quantize.fixed_range_fake_quant import fix_ranges

    batches = list(work.task.calibration.batches(_BATCH))
    if scheme.step.activations != "static":
        batches = batches[:1]  # weights are seen on any call
    for index, (inputs, _) in enumerate(batches):
        work.progress(Progress("calibrate", index, len(batches)))
        predict_with(prepared, inputs)
    with quiet_torchao():
        fix_ranges(prepared)


def convert(prepared: GraphModule) -> GraphModule:
    """Return the graph with integers in the place of observers."""
    make_room(prepared)
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        converted: GraphModule = convert_pt2e(prepared)
    for part in converted.modules():
        part.training = False  # the graph was captured for inference; exporters ask
    return converted


def quantized_copy(
    graph: GraphModule, work: Work, scheme: Scheme, excluded: Mapping[str, str]
) -> tuple[GraphModule, list[Touch]]:
    """Return a calibrated and converted copy of ``graph``, and which layers it quantizes."""
    prepared, touches = prepare(copied_module(graph), scheme, excluded, training=False)
    calibrate(prepared, work, scheme)
    return convert(prepared), touches


def samples(work: Work, count: int) -> Tree:
    """Return the first ``count`` calibration samples as one batch."""
    inputs: Any = work.task.calibration.inputs
    return tree_map(lambda leaf: leaf[:count], inputs)


def quality_of(module: torch.nn.Module, work: Work) -> float:
    """Return the task's metric on the validation split."""
    return work.task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
