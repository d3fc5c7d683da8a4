"""The Quantize step: calibrate, or train with rounding simulated, and convert."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch.fx import GraphModule

from workbench.compress.apply import Outcome, Work
from workbench.compress.lesson import Lesson
from workbench.compress.names import excluded_names
from workbench.compress.quantize.annotate import Touch
from workbench.compress.quantize.capture import capture
from workbench.compress.quantize.quiet import quiet_torchao
from workbench.compress.quantize.specs import Scheme, make_quantizer, scheme_for
from workbench.compress.steps import Quantize
from workbench.compress.training import Plan, Trained, is_normalised_by_layer, set_layout, train
from workbench.compress.variant import LayerReport, predict_with
from workbench.core.progress import Progress
from workbench.tasks.trees import Tree

_TEMPERATURE, _ALPHA = 4.0, 0.9
_CALIBRATION_BATCH = 32
# Weights that are right already only have to move by rounding errors.
_RATE_SCALE = 0.1


def quantize(step: Quantize, work: Work) -> Outcome:
    """Turn the variant's module into an 8-bit graph; see :class:`Quantize`."""
    module, task = work.module, work.task
    excluded = excluded_names(module, step.exclude, where="Quantize")
    scheme = scheme_for(step)
    training = step.qat_epochs > 0
    quantizer = make_quantizer(scheme, excluded, training=training)
    work.progress(Progress("quantize", 0, 1, "capturing the graph"))
    graph = capture(module, task.examples(2))
    prepared = _prepare(graph, quantizer, training=training)
    trained = Trained(0.0, 0, ())
    _calibrate(prepared, work, scheme)
    if training and any(touch.touched for touch in quantizer.annotator.touches):
        prepared, trained = _train(prepared, step, work, transformer=is_normalised_by_layer(module))
    work.progress(Progress("quantize", 1, 1, "converting"))
    converted = _convert(prepared)
    layers = _layers(module, quantizer.annotator.touches)
    notes = (*scheme.notes, *trained.notes)
    return Outcome(converted, layers, trained.epochs, notes, quantized=True)


def _prepare(graph: GraphModule, quantizer: Any, *, training: bool) -> GraphModule:
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e, prepare_qat_pt2e

        prepared: GraphModule = (prepare_qat_pt2e if training else prepare_pt2e)(graph, quantizer)
    return prepared


def _calibrate(prepared: GraphModule, work: Work, scheme: Scheme) -> None:
    """Show the observers the calibration samples, and fix the ranges where training follows."""
    from workbench.compress.quantize.ranged import fix_ranges

    batches = list(work.task.calibration.batches(_CALIBRATION_BATCH))
    if not scheme.activations:
        batches = batches[:1]  # weights are seen on any call
    for index, (inputs, _) in enumerate(batches):
        work.progress(Progress("calibrate", index, len(batches)))
        predict_with(prepared, inputs)
    with quiet_torchao():
        fix_ranges(prepared)


def _train(prepared: GraphModule, step: Quantize, work: Work, *, transformer: bool) -> tuple[GraphModule, Trained]:
    task = work.task
    start, quality = copy.deepcopy(prepared.state_dict()), _quality(prepared, work)
    lesson = Lesson(task, temperature=_TEMPERATURE, alpha=_ALPHA) if step.distill else None

    def label_loss(outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        return task.loss(outputs, targets)

    plan = Plan(step.qat_epochs, step.batch_size, step.learning_rate, step.max_seconds, _RATE_SCALE, transformer)
    trained = train(
        set_layout(prepared, torch.channels_last),
        task.train,
        lesson.loss if lesson else label_loss,
        plan,
        stage="quantize",
        progress=work.progress,
        seed=work.seed,
        augment=lesson.augment if lesson else task.augment,
        on_share=lesson.at if lesson else None,
    )
    set_layout(prepared, torch.contiguous_format)
    after = _quality(prepared, work)
    if after >= quality:
        return prepared, trained
    prepared.load_state_dict(start)
    note = f"Training made the validation quality worse ({quality:.4f} -> {after:.4f}); calibration alone was kept."
    return prepared, replace(trained, notes=(*trained.notes, note))


def _quality(prepared: GraphModule, work: Work) -> float:
    return work.task.evaluate(lambda inputs: predict_with(prepared, inputs), split="validation")


def _convert(prepared: GraphModule) -> GraphModule:
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        converted: GraphModule = convert_pt2e(prepared)
    for part in converted.modules():
        part.training = False  # the graph was captured for inference; exporters ask
    return converted


def _layers(module: torch.nn.Module, touches: list[Touch]) -> tuple[LayerReport, ...]:
    """Report every layer that computes with a weight matrix, in the model's order."""
    kinds = {name: type(layer).__name__ for name, layer in module.named_modules()}
    found = {touch.name: touch for touch in touches}
    reports = []
    for name, layer in module.named_modules():
        weight = getattr(layer, "weight", None)
        if name in found:
            reports.append(LayerReport(name, kinds[name], found[name].touched, found[name].reason))
        elif isinstance(weight, torch.Tensor) and weight.ndim > 1:
            reports.append(LayerReport(name, kinds[name], False, _why_untouched(layer)))
    known = {report.name for report in reports}
    reports += [LayerReport(t.name, "function", t.touched, t.reason) for t in touches if t.name not in known]
    return tuple(reports)


def _why_untouched(layer: torch.nn.Module) -> str:
    if isinstance(layer, torch.nn.Embedding):
        return "a table that is looked up, not multiplied: stays in float"
    if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd):
        return "transposed convolutions have no int8 kernel in ONNX Runtime"
    return "not a convolution or Linear that the captured graph calls with its weight"
