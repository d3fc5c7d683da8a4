"""The Quantize step: even out, calibrate or train with rounding simulated, convert, and correct."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch.fx import GraphModule

from workbench.compress.graph.capture import capture, captured_sizes
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import excluded_names
from workbench.compress.model_ops import predict_with
from workbench.compress.quantize.annotate import Touch
from workbench.compress.quantize.bias_correction import correct_biases
from workbench.compress.quantize.calibrate import calibrate, convert, prepare, quality_of, quantized_copy, samples
from workbench.compress.quantize.equalize import equalize_pairs, smooth
from workbench.compress.quantize.float_layers import fewest, signal_to_noise
from workbench.compress.quantize.qspec import Scheme, scheme_for
from workbench.compress.quantize.report import report_layers
from workbench.compress.steps import Quantize
from workbench.compress.training.distillation_objective import DistillationObjective
from workbench.compress.training.loop import train
from workbench.compress.training.numerics import set_layout
from workbench.compress.training.plan import Plan, Trained, is_normalised_by_layer
from workbench.core.progress import Progress
from workbench.tasks.module import copied_module, with_output_form
from workbench.tasks.sizes import with_sizes
from workbench.tasks.trees import Tree

_TEMPERATURE, _ALPHA = 4.0, 0.9
# Weights that are right already only have to move by rounding errors.
_RATE_SCALE = 0.1
_SMOOTH_SAMPLES, _BIAS_SAMPLES, _RANKING_SAMPLES = 64, 128, 32


@register_handler(Quantize)
def quantize(step: Quantize, work: Work) -> Outcome:
    """Turn the variant's module into a graph of small integers; see :class:`Quantize`."""
    if step.route != "qdq":
        from workbench.compress.quantize.native import quantize_native

        return quantize_native(step, work)
    excluded = dict.fromkeys(excluded_names(work.module, step.exclude, where="Quantize"), "excluded by name")
    scheme = scheme_for(step)
    work.progress(Progress("quantize", 0, 1, "capturing the graph"))
    example, dims = work.task.examples(2), work.task.open_dims
    graph = capture(work.module, example, dims=dims)
    sizes = captured_sizes(graph, example, dims)
    evened = _equalize(graph, step, work)
    said, notes = [evened], list(scheme.notes)
    if step.equalize != "none" and all("not " in words for words in evened.values()):
        notes.append(f"equalize={step.equalize!r} found nothing to even out: the layers' reports say why.")
    if step.keep_drop is not None:
        kept, ranked, note = _keep_worst(graph, step, work, scheme, excluded)
        excluded |= kept
        said.append(ranked)
        notes.append(note)
    plain = copied_module(graph) if step.bias_correction else None
    converted, touches, trained = _round(graph, step, work, scheme, excluded)
    if plain is not None:
        work.progress(Progress("quantize", 0, 1, "correcting biases"))
        said.append(correct_biases(plain, converted, samples(work, _BIAS_SAMPLES)))
    layers = report_layers(work.module, [_with(touch, said) for touch in touches])
    with_output_form(converted, predict_with(work.module, example))
    with_sizes(converted, list(example) if isinstance(example, Mapping) else (), sizes)
    return Outcome(converted, layers, trained.epochs, (*notes, *trained.pace, *trained.notes), quantized=True)


def _equalize(graph: GraphModule, step: Quantize, work: Work) -> dict[str, str]:
    if step.equalize == "cross_layer":
        return equalize_pairs(graph)
    if step.equalize == "smooth":
        return smooth(graph, samples(work, _SMOOTH_SAMPLES), alpha=step.smooth_alpha)
    return {}


def _keep_worst(
    graph: GraphModule, step: Quantize, work: Work, scheme: Scheme, excluded: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str], str]:
    """Return the layers to leave in float with the reason, what to say of each layer, and a note."""
    before, allowed = quality_of(work.module, work), step.keep_drop or 0.0
    whole, _ = quantized_copy(graph, work, scheme, excluded)
    ratios = signal_to_noise(graph, whole, samples(work, _RANKING_SAMPLES))
    ranking = sorted(ratios, key=ratios.__getitem__)
    drops: dict[int, float] = {}

    def holds(count: int) -> bool:
        work.progress(Progress("quantize", 0, 1, f"{count} of {len(ranking)} layers in float"))
        kept = dict.fromkeys(ranking[:count], "kept in float")
        part = whole if not count else quantized_copy(graph, work, scheme, {**excluded, **kept})[0]
        drops[count] = before - quality_of(part, work)
        return drops[count] <= allowed

    count = 0 if holds(0) else 1 + fewest(len(ranking) - 1, lambda n: holds(n + 1))
    reason = f"kept in float, so that the validation quality drops by at most {allowed:g}"
    tried = ", ".join(f"{n} in float: {drop:+.4f}" for n, drop in sorted(drops.items()))
    note = f"keep_drop={allowed:g}: {count} of {len(ranking)} layers stay in float (validation drop with {tried})."
    said = {name: f"outputs at {ratio:.1f} dB when it alone is rounded" for name, ratio in ratios.items()}
    return dict.fromkeys(ranking[:count], reason), said, note


def _round(
    graph: GraphModule, step: Quantize, work: Work, scheme: Scheme, excluded: Mapping[str, str]
) -> tuple[GraphModule, list[Touch], Trained]:
    training, trained = step.qat_epochs > 0, Trained(0.0, 0, ())
    prepared, touches = prepare(graph, scheme, excluded, training=training)
    calibrate(prepared, work, scheme)
    if training and any(touch.touched for touch in touches):
        prepared, trained = _train(prepared, step, work, transformer=is_normalised_by_layer(work.module))
    work.progress(Progress("quantize", 1, 1, "converting"))
    return convert(prepared), touches, trained


def _train(prepared: GraphModule, step: Quantize, work: Work, *, transformer: bool) -> tuple[GraphModule, Trained]:
    task = work.task
    start, quality = copy.deepcopy(prepared.state_dict()), quality_of(prepared, work)
    lesson = DistillationObjective(task, temperature=_TEMPERATURE, alpha=_ALPHA) if step.distill else None

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
    after = quality_of(prepared, work)
    if after >= quality:
        return prepared, trained
    prepared.load_state_dict(start)
    note = f"Training made the validation quality worse ({quality:.4f} -> {after:.4f}); calibration alone was kept."
    return prepared, replace(trained, notes=(*trained.notes, note))


def _with(touch: Touch, said: list[dict[str, str]]) -> Touch:
    """Return a layer's report with what else was done to it, or why not."""
    more = [words[touch.name] for words in said if touch.name in words]
    return replace(touch, reason="; ".join([touch.reason, *more]))
