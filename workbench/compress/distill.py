"""Distillation from the task's own model, and plain recovery on the labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from workbench.compress.apply import Outcome, Work
from workbench.compress.steps import Distill, Recover
from workbench.compress.training import (
    BatchLoss,
    Plan,
    channels_last,
    fast_products,
    in_full,
    is_normalised_by_layer,
    set_layout,
    train,
)
from workbench.compress.variant import LayerReport
from workbench.core.errors import WorkbenchError
from workbench.tasks.trees import Tree, call_model, leaves, tree_map


def distill(step: Distill, work: Work) -> Outcome:
    """Train the variant to answer like the task's own model."""
    teacher = Teacher(work.task.model(), cached=work.task.augment is None, count=len(work.task.train))

    def loss(outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        wanted = teacher(inputs, indices)
        return mixed_loss(outputs, wanted, targets, work.task.loss, temperature=step.temperature, alpha=step.alpha)

    return _trained(step, work, loss, "distill")


def recover(step: Recover, work: Work) -> Outcome:
    """Train the variant on the labels."""

    def loss(outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        return work.task.loss(outputs, targets)

    return _trained(step, work, loss, "recover")


class Teacher:
    """The task's own model in eval mode; answers are kept per sample where inputs never change."""

    def __init__(self, module: nn.Module, *, cached: bool, count: int) -> None:
        self.module = set_layout(module, torch.channels_last).eval()
        self._cached = cached
        self._known = torch.zeros(count, dtype=torch.bool)
        self._store: Tree = None

    def __call__(self, inputs: Tree, indices: torch.Tensor) -> Tree:
        """Return the teacher's outputs for ``inputs``, which are the training samples ``indices``."""
        if self._cached and bool(self._known[indices].all()):
            return tree_map(lambda kept: kept[indices], self._store)
        with torch.no_grad(), fast_products():
            outputs = tree_map(in_full, call_model(self.module, channels_last(inputs)))
        if self._cached:
            self._keep(outputs, indices)
        return outputs

    def _keep(self, outputs: Tree, indices: torch.Tensor) -> None:
        if self._store is None:
            self._store = tree_map(lambda x: x.new_empty((len(self._known), *x.shape[1:])), outputs)
        for kept, new in zip(leaves(self._store), leaves(outputs), strict=True):
            kept[indices] = new
        self._known[indices] = True


def mixed_loss(
    outputs: Tree,
    teacher: Tree,
    targets: Tree,
    label_loss: Callable[[Tree, Tree], torch.Tensor],
    *,
    temperature: float,
    alpha: float,
) -> torch.Tensor:
    """Return ``alpha * teacher part + (1 - alpha) * label loss``.

    The teacher part is the mean over floating output leaves of :func:`leaf_loss`.
    """
    parts = [
        leaf_loss(mine, theirs, temperature)
        for mine, theirs in zip(leaves(outputs), leaves(teacher), strict=True)
        if mine.is_floating_point()
    ]
    if not parts:
        raise WorkbenchError("Distill needs a floating-point output to learn from; this model gives none.")
    soft = torch.stack(parts).mean()
    return soft if alpha == 1.0 else alpha * soft + (1 - alpha) * label_loss(outputs, targets)


def leaf_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return ``T^2 * KL(teacher || student)`` for logits [n, classes], the mean squared error for other shapes."""
    if student.ndim == 2 and student.shape[1] > 1:
        divergence = functional.kl_div(
            functional.log_softmax(student / temperature, dim=1),
            functional.log_softmax(teacher / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * temperature**2
    return functional.mse_loss(student, teacher)


def _trained(step: Distill | Recover, work: Work, loss: BatchLoss, stage: str) -> Outcome:
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
        augment=task.augment,
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
