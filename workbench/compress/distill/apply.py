"""Handlers of Distill and Recover: knowledge distillation, and training on the labels."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.compress.graph.batchnorm import fold_batch_norms, norms_with_statistics, reestimate
from workbench.compress.graph.outputs import trace_maps
from workbench.compress.handlers import Outcome, Work, register_handler
from workbench.compress.layer_selection import display_name
from workbench.compress.model_ops import predict_with, validation_quality
from workbench.compress.steps import Distill, Recover
from workbench.compress.training.distillation_objective import DistillationObjective
from workbench.compress.training.features import FeatureMatching, Pair, check_layers, match_last_maps
from workbench.compress.training.loop import BatchLoss, train
from workbench.compress.training.losses import check_heads
from workbench.compress.training.numerics import set_memory_format
from workbench.compress.training.plan import TrainingPlan, is_layer_normalized
from workbench.compress.variant import LayerReport
from workbench.core.errors import ConfigError, TaskError
from workbench.tasks.load import load_module
from workbench.tasks.module import protect_inputs
from workbench.tasks.trees import Tree, named_leaves

if TYPE_CHECKING:
    from workbench.tasks.task import Task

FINE_TUNING = 0.4
"""Factor of SGD's default learning rate for a student made from the trained model, which starts near the optimum.

AdamW keeps its rate: digits_vit without a block lost 2 points of validation more with 0.4. Narrowed students keep it
too: digits with half of its channels lost 0.3 points less with the full rate (2 seeds).
"""
_PROOF_SAMPLES = 8


def check(step: Distill, task: Task) -> None:
    """Raise :class:`ConfigError` if teacher, student, heads or layers cannot be used."""
    model = task.model()
    check_heads(predict_with(model, task.examples(2)), step.head_rules)
    teacher = _load(step, "teacher", task) if step.teacher is not None else model
    pairs = [(pair, "features") for pair in step.feature_pairs]
    pairs += [(pair, "attention") for pair in step.attention_pairs]
    check_layers(teacher, [(theirs, kind) for (_, theirs), kind in pairs], "teacher")
    if step.last_map == "last" and trace_maps(teacher, task.examples(2)).last is None:
        raise ConfigError("Distill.features='last': no feature map was found in the teacher. Name a layer instead.")
    if step.student is not None:
        check_layers(_load(step, "student", task), [(mine, kind) for (mine, _), kind in pairs], "student")


@register_handler(Distill, check=check)
def distill(step: Distill, work: Work) -> Outcome:
    """Train the variant, or the user's student, on the teacher's outputs; see :class:`Distill`."""
    task, own = work.task, step.student is not None
    student = _load(step, "student", task) if own else work.module
    teacher = _load(step, "teacher", task) if step.teacher is not None else task.model()
    pairs, notes = _matched(step, task, student, teacher)
    weights, example = step.feature_weights, task.examples(2)
    with FeatureMatching(student, teacher, example, pairs, weights=weights, seed=work.seed) as matching:
        objective = DistillationObjective(task, step, teacher=teacher, matching=matching)
        outcome = _trained(
            step,
            replace(work, module=student),
            "distill",
            objective.loss,
            rate_scale=1.0 if own else _rate_scale(student, task),
            augment=objective.augment,
            on_share=objective.at,
            memory=objective,
            extra=matching.projections if matching else None,
        )
    layers = outcome.layers
    if own:
        notes = (f"The structure is that of student={step.student!r}, not of the task's own model.", *notes)
        layers = tuple(replace(layer, touched=True, reason=f"the student's own: {layer.reason}") for layer in layers)
    return replace(outcome, layers=layers, notes=(*notes, *outcome.notes))


def _matched(step: Distill, task: Task, student: nn.Module, teacher: nn.Module) -> tuple[list[Pair], tuple[str, ...]]:
    """Return the pairs of layers to match, and a note on the last feature map."""
    pairs = [Pair(*names, "features") for names in step.feature_pairs]
    pairs += [Pair(*names, "attention") for names in step.attention_pairs]
    if step.last_map is None or step.feature_weight == 0.0:
        return pairs, ()
    same_names = step.student is None and step.teacher is None
    pair, words = match_last_maps(student, teacher, task.examples(2), same_names=same_names)
    if pair is not None and (pair.kind == "map" or step.last_map == "last"):
        return [*pairs, pair], (f"Learned the outputs and a feature map: {words}.",)
    if step.last_map == "last":
        raise ConfigError(f"Distill.features: {words}. Name a layer, or give features=().")
    return pairs, (f"Learned the outputs alone: {words}.",)


def _rate_scale(student: nn.Module, task: Task) -> float:
    """Return the factor of the default learning rate for a student made from the task's model."""
    own = {name: weight.shape for name, weight in task.model().named_parameters()}
    narrowed = any(own.get(name, weight.shape) != weight.shape for name, weight in student.named_parameters())
    return 1.0 if narrowed else FINE_TUNING


@register_handler(Recover)
def recover(step: Recover, work: Work, *, rate_scale: float | None = None) -> Outcome:
    """Train the variant on the labels, then recompute or fold its batch norms; see :class:`Recover`.

    ``rate_scale`` scales the default learning rate; None: that of fine-tuning.
    """
    scale = _rate_scale(work.module, work.task) if rate_scale is None else rate_scale

    def loss(outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        return work.task.loss(outputs, targets)

    if step.epochs:
        outcome = _trained(step, work, "recover", loss, rate_scale=scale, augment=work.task.augment)
    else:
        outcome = Outcome(work.module, _layers(work.module, _weights(work.module), "not trained: epochs is 0"))
    if step.batch_norm == "reestimate":
        outcome = _reestimated(step, work, outcome)
    return _folded(work, outcome) if step.fold else outcome


def _load(step: Distill, role: str, task: Task) -> nn.Module:
    """Return the step's own teacher or student, whose outputs must have the structure of those of the task's model."""
    reference = getattr(step, role)
    where, inputs = f"Distill.{role}={reference!r}", task.examples(2)
    try:
        module = protect_inputs(load_module(reference), inputs)
    except TaskError as error:
        raise ConfigError(f"{where}: {error}") from error
    expected = _describe(predict_with(task.model(), inputs))
    try:
        given = _describe(predict_with(module, inputs))
    except Exception as error:
        raise ConfigError(f"{where} cannot run on the task's inputs: {type(error).__name__}: {error}") from error
    if given != expected:
        raise ConfigError(
            f"{where} gives {_listed(given)} per sample, but the task's model gives {_listed(expected)}. "
            "Teacher and student must have outputs of the same structure."
        )
    return module


def _describe(outputs: Tree) -> dict[str, str]:
    return {name: f"{str(x.dtype)[6:]} {list(x.shape[1:])}" for name, x in named_leaves(outputs)}


def _listed(description: Mapping[str, str]) -> str:
    return ", ".join(f"{name or 'output'}: {kind}" for name, kind in description.items())


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def _trained(
    step: Distill | Recover, work: Work, stage: str, loss: BatchLoss, *, rate_scale: float, **options: Any
) -> Outcome:
    module, task = work.module, work.task
    before, transformer = _weights(module), is_layer_normalized(module)
    shared: dict[str, Any] = {f.name: getattr(step, f.name) for f in fields(TrainingPlan) if hasattr(step, f.name)}
    scale = 1.0 if transformer else rate_scale
    plan = TrainingPlan(**shared, rate_scale=scale, transformer=transformer, timed=True)
    trained = train(
        module.train(),
        task.train,
        loss,
        plan,
        stage=stage,
        progress=work.progress,
        seed=work.seed,
        quality=lambda: validation_quality(module, task),
        checkpoint=work.checkpoint(stage),
        **options,
    )
    set_memory_format(module.eval(), torch.contiguous_format)
    unchanged = "trained without improvement: put back" if trained.kept_start else "its weights did not change"
    layers = _layers(module, before, unchanged)
    return Outcome(module, layers, trained.epochs, (*trained.notes, *trained.pace), declined=trained.kept_start)


def _layers(module: nn.Module, before: Mapping[str, torch.Tensor], unchanged: str) -> tuple[LayerReport, ...]:
    """Report every layer with weights of its own: trained, or why not."""
    reports = []
    for name, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        if not own:
            continue
        prefix = f"{name}." if name else ""
        changed = any(not torch.equal(value, before[prefix + key]) for key, value in own.items())
        frozen = not any(value.requires_grad for value in own.values())
        reason = "trained" if changed else "its weights are frozen (requires_grad=False)" if frozen else unchanged
        reports.append(LayerReport(display_name(name), type(layer).__name__, changed, reason))
    return tuple(reports)


def _reestimated(step: Recover, work: Work, outcome: Outcome) -> Outcome:
    norms = norms_with_statistics(outcome.module)
    names = reestimate(outcome.module, work.task.train, batch_size=step.batch_size, progress=work.progress)
    reasons = dict.fromkeys(names, "running statistics recomputed")
    reasons |= dict.fromkeys(norms.keys() - names, "not reached from the model's inputs")
    kinds = {name: type(layer).__name__ for name, layer in norms.items()}
    notes = () if norms else ("No BatchNorm with running statistics to recompute.",)
    return replace(outcome, layers=_merged(outcome.layers, kinds, reasons, names), notes=(*outcome.notes, *notes))


def _folded(work: Work, outcome: Outcome) -> Outcome:
    kinds = {name: type(layer).__name__ for name, layer in outcome.module.named_modules()}
    reasons = fold_batch_norms(outcome.module, work.task.examples(_PROOF_SAMPLES))
    folded = {name for name, words in reasons.items() if words.startswith("folded into")}
    reasons |= {name: f"not folded: {reasons[name]}" for name in reasons.keys() - folded}
    layers = _merged(outcome.layers, kinds, reasons, folded)
    note = f"{len(folded)} of {len(reasons)} batch norms were folded into the convolution before them."
    return replace(outcome, layers=layers, notes=(*outcome.notes, note))


def _merged(
    layers: tuple[LayerReport, ...], kinds: Mapping[str, str], reasons: Mapping[str, str], touched: Set[str]
) -> tuple[LayerReport, ...]:
    """Return the reports with further reasons for some layers, which are given by their names in the module."""
    merged = {layer.name: layer for layer in layers}
    for name, reason in reasons.items():
        shown = display_name(name)
        old = merged.get(shown)
        if old is not None and old.touched:
            merged[shown] = replace(old, reason=f"{old.reason}; {reason}")
        else:
            merged[shown] = LayerReport(shown, kinds[name], name in touched, reason)
    return tuple(merged.values())
