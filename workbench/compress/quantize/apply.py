"""Carry out Quantize: equalize, calibrate or train, convert, choose the layers that stay in float, correct biases."""

from __future__ import annotations

import copy
import math
import operator
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.capture import capture, captured_sizes, run_graph, stored
from workbench.compress.graph.outputs import relative_squared_error
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import excluded_names
from workbench.compress.model_ops import predict_with, quality_of
from workbench.compress.quantize.annotate import LayerDecision, report_layers, weighted_nodes
from workbench.compress.quantize.biases import correct_biases, prevent_bias_overflow
from workbench.compress.quantize.equalize import equalize_pairs, smooth
from workbench.compress.quantize.observers import freeze_ranges
from workbench.compress.quantize.qspec import QdqQuantizer, Scheme, scheme_for
from workbench.compress.steps import Distill, Quantize
from workbench.compress.training.distillation_objective import DistillationObjective
from workbench.compress.training.loop import train
from workbench.compress.training.numerics import set_memory_format
from workbench.compress.training.plan import TrainingPlan, TrainingResult, is_layer_normalized
from workbench.core.progress import Progress
from workbench.core.quiet import quiet_torchao
from workbench.tasks.module import copy_module, require_sizes, restore_output_structure
from workbench.tasks.trees import Tree, tree_map

with quiet_torchao():
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e

_BATCH = 32
_TEMPERATURE, _ALPHA = 4.0, 0.9
_RATE_SCALE = 0.1  # trained weights only have to move by rounding errors
_SMOOTH_SAMPLES, _BIAS_SAMPLES, _RANKING_SAMPLES = 64, 128, 32
_ROUNDING = ("quantized_decomposed", "view")


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


@register_handler(Quantize)
def quantize(step: Quantize, work: Work) -> Outcome:
    """Return the variant's module as a quantized graph; see :class:`Quantize`."""
    if step.route != "qdq":
        from workbench.compress.quantize.native import quantize_native

        return quantize_native(step, work)
    excluded = dict.fromkeys(excluded_names(work.module, step.exclude, where="Quantize"), "excluded by name")
    scheme = scheme_for(step)
    work.progress(Progress("quantize", 0, 1, "capturing the graph"))
    example, dims = work.task.examples(2), work.task.open_dims
    graph = capture(work.module, example, dims=dims)
    sizes = captured_sizes(graph, example, dims)
    equalized = _equalize(graph, step, work)
    remarks, notes = [equalized], list(scheme.notes)
    if step.equalize != "none" and all("not " in remark for remark in equalized.values()):
        notes.append(f"equalize={step.equalize!r} changed no layer; the layer reports give the reasons.")
    if step.keep_drop is not None:
        kept, sqnr, note = _keep_in_float(graph, step, work, scheme, excluded)
        excluded |= kept
        remarks.append(sqnr)
        notes.append(note)
    plain = copy_module(graph) if step.bias_correction else None
    converted, decisions, trained = _round(graph, step, work, scheme, excluded)
    if plain is not None:
        work.progress(Progress("quantize", 0, 1, "correcting biases"))
        remarks.append(correct_biases(plain, converted, samples(work, _BIAS_SAMPLES)))
    layers = report_layers(work.module, [_with_remarks(decision, remarks) for decision in decisions])
    restore_output_structure(converted, predict_with(work.module, example))
    require_sizes(converted, list(example) if isinstance(example, Mapping) else (), sizes)
    return Outcome(converted, layers, trained.epochs, (*notes, *trained.pace, *trained.notes), quantized=True)


def _equalize(graph: GraphModule, step: Quantize, work: Work) -> dict[str, str]:
    if step.equalize == "cross_layer":
        return equalize_pairs(graph)
    if step.equalize == "smooth":
        return smooth(graph, samples(work, _SMOOTH_SAMPLES), alpha=step.smooth_alpha)
    return {}


def _keep_in_float(
    graph: GraphModule, step: Quantize, work: Work, scheme: Scheme, excluded: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str], str]:
    """Return the layers to leave in float with the reason, a remark per layer, and a note."""
    before, allowed = quality_of(work.module, work.task), step.keep_drop or 0.0
    whole, _ = quantized_copy(graph, work, scheme, excluded)
    ratios = output_sqnr(graph, whole, samples(work, _RANKING_SAMPLES))
    ranking = sorted(ratios, key=ratios.__getitem__)
    drops: dict[int, float] = {}

    def holds(count: int) -> bool:
        work.progress(Progress("quantize", 0, 1, f"{count} of {len(ranking)} layers in float"))
        kept = dict.fromkeys(ranking[:count], "kept in float")
        part = whole if not count else quantized_copy(graph, work, scheme, {**excluded, **kept})[0]
        drops[count] = before - quality_of(part, work.task)
        return drops[count] <= allowed

    count = 0 if holds(0) else 1 + smallest_passing(len(ranking) - 1, lambda n: holds(n + 1))
    reason = f"kept in float: validation drop limited to {allowed:g}"
    trials = ", ".join(f"{n} in float: {drop:+.4f}" for n, drop in sorted(drops.items()))
    note = f"keep_drop={allowed:g}: {count} of {len(ranking)} layers stay in float (validation drop with {trials})."
    remarks = {name: f"output SQNR {ratio:.1f} dB if quantized alone" for name, ratio in ratios.items()}
    return dict.fromkeys(ranking[:count], reason), remarks, note


def _round(
    graph: GraphModule, step: Quantize, work: Work, scheme: Scheme, excluded: Mapping[str, str]
) -> tuple[GraphModule, list[LayerDecision], TrainingResult]:
    training, trained = step.qat_epochs > 0, TrainingResult(0.0, 0, ())
    prepared, decisions = prepare(graph, scheme, excluded, training=training)
    calibrate(prepared, work, scheme)
    if training and any(decision.quantized for decision in decisions):
        prepared, trained = _train(prepared, step, work, transformer=is_layer_normalized(work.module))
    work.progress(Progress("quantize", 1, 1, "converting"))
    return convert(prepared), decisions, trained


def _train(
    prepared: GraphModule, step: Quantize, work: Work, *, transformer: bool
) -> tuple[GraphModule, TrainingResult]:
    task = work.task
    start, quality = copy.deepcopy(prepared.state_dict()), quality_of(prepared, task)
    lesson = DistillationObjective(task, Distill(temperature=_TEMPERATURE, alpha=_ALPHA)) if step.distill else None

    def label_loss(outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        return task.loss(outputs, targets)

    plan = TrainingPlan(
        step.qat_epochs, step.batch_size, step.learning_rate, step.max_seconds, _RATE_SCALE, transformer
    )
    trained = train(
        set_memory_format(prepared, torch.channels_last),
        task.train,
        lesson.loss if lesson else label_loss,
        plan,
        stage="quantize",
        progress=work.progress,
        seed=work.seed,
        augment=lesson.augment if lesson else task.augment,
        on_share=lesson.at if lesson else None,
    )
    set_memory_format(prepared, torch.contiguous_format)
    after = quality_of(prepared, task)
    if after >= quality:
        return prepared, trained
    prepared.load_state_dict(start)
    note = f"QAT lowered the validation quality ({quality:.4f} -> {after:.4f}); the calibrated weights were kept."
    return prepared, replace(trained, notes=(*trained.notes, note))


def _with_remarks(decision: LayerDecision, remarks: list[dict[str, str]]) -> LayerDecision:
    own = [by_layer[decision.name] for by_layer in remarks if decision.name in by_layer]
    return replace(decision, reason="; ".join([decision.reason, *own]))


def output_sqnr(plain: GraphModule, converted: GraphModule, inputs: Tree) -> dict[str, float]:
    """Return the SQNR (dB) of the model's outputs if one layer alone is quantized, for each quantized layer.

    ``plain`` and ``converted`` are the graph before and after quantization, ``inputs`` calibration samples [n, ...].
    """
    twins = {node.name: node for node in converted.graph.nodes}
    reference = run_graph(plain, inputs, lambda node, _, value: value)
    ratios: dict[str, float] = {}
    for node, owner in weighted_nodes(plain):
        twin = twins.get(node.name)
        if owner is None or twin is None or twin.args[1].op == "get_attr":
            continue
        noise = relative_squared_error(reference, run_graph(plain, inputs, _rounding_at(node, twin, converted)))
        ratio = math.inf if noise == 0 else -10 * math.log10(noise)
        ratios[owner] = min(ratios.get(owner, math.inf), ratio)
    return ratios


def _rounding_at(chosen: Node, twin: Node, converted: GraphModule) -> Callable[[Node, tuple[Any, ...], Any], Any]:
    source = str(chosen.args[0])

    def visit(node: Node, args: tuple[Any, ...], value: Any) -> Any:
        if node is not chosen:
            return value
        values = {source: args[0]}
        rounded = [_value(converted, twin.args[place], values) for place in (0, 1)]
        return chosen.target(*rounded, *args[2:], **chosen.kwargs)  # type: ignore[operator]

    return visit


def _value(graph: GraphModule, item: Any, values: dict[str, Any]) -> Any:
    """Evaluate a rounding node from known ``values`` and stored tensors."""
    if not isinstance(item, Node):
        return [_value(graph, part, values) for part in item] if isinstance(item, list) else item
    if item.name in values:
        return values[item.name]
    tensor = stored(graph, item)
    if tensor is not None:
        return tensor
    if item.target is not operator.getitem and not any(word in str(item.target) for word in _ROUNDING):
        raise TypeError(f"{item} is not a rounding")
    values[item.name] = item.target(*(_value(graph, arg, values) for arg in item.args), **item.kwargs)  # type: ignore[operator]
    return values[item.name]


def smallest_passing(count: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest ``n`` with ``holds(n)`` by bisection; ``holds`` is monotone, and ``holds(count)`` assumed."""
    return bisect_left(range(count), True, key=holds)
