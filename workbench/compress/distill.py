"""Distillation from the task's own model, and plain recovery on the labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from workbench.compress.apply import Outcome, Work
from workbench.compress.lesson import Lesson
from workbench.compress.steps import Distill, Recover
from workbench.compress.training import BatchLoss, Plan, is_normalised_by_layer, set_layout, train
from workbench.compress.variant import LayerReport
from workbench.tasks.trees import Tree


def distill(step: Distill, work: Work) -> Outcome:
    """Train the variant to answer like the task's own model."""
    lesson = Lesson(work.task, temperature=step.temperature, alpha=step.alpha, blend=step.blend)
    return _trained(step, work, "distill", lesson.loss, lesson.augment, lesson.at)


def recover(step: Recover, work: Work) -> Outcome:
    """Train the variant on the labels."""

    def loss(outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        return work.task.loss(outputs, targets)

    return _trained(step, work, "recover", loss, work.task.augment)


def _trained(
    step: Distill | Recover,
    work: Work,
    stage: str,
    loss: BatchLoss,
    augment: Callable[[Tree, torch.Generator], Tree] | None,
    on_share: Callable[[float], None] | None = None,
) -> Outcome:
    module, task = set_layout(work.module, torch.channels_last), work.task
    before = {key: value.clone() for key, value in module.state_dict().items()}
    transformer = is_normalised_by_layer(module)
    plan = Plan(step.epochs, step.batch_size, step.learning_rate, step.max_seconds, transformer=transformer)
    trained = train(
        module.train(),
        task.train,
        loss,
        plan,
        stage=stage,
        progress=work.progress,
        seed=work.seed,
        augment=augment,
        on_share=on_share,
    )
    set_layout(module.eval(), torch.contiguous_format)
    return Outcome(module, _layers(module, before), trained.epochs, trained.notes)


def _layers(module: nn.Module, before: dict[str, torch.Tensor]) -> tuple[LayerReport, ...]:
    """Report every layer with weights of its own: trained, or why it stayed."""
    reports = []
    for name, layer in module.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        if not own:
            continue
        prefix = f"{name}." if name else ""
        changed = any(not torch.equal(value, before[prefix + key]) for key, value in own.items())
        frozen = not any(value.requires_grad for value in own.values())
        reason = "trained" if changed else "its weights do not ask for gradients" if frozen else "nothing to learn"
        reports.append(LayerReport(name or "(model)", type(layer).__name__, changed, reason))
    return tuple(reports)
