"""What a student learns from: the teacher's answers, the labels, and blends of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from workbench.compress.training import channels_last, fast_products, in_full, set_layout
from workbench.core.errors import WorkbenchError
from workbench.tasks.trees import Tree, call_model, leaves, tree_map

if TYPE_CHECKING:
    from workbench.tasks.task import Task

# Half of the batches are blends, until the last part of the training, which sees real samples only, so that batch
# norm's running statistics end as those of real ones.
_BLENDED, _BLENDED_UNTIL = 0.5, 0.85


class Lesson:
    """Batches and loss for a student whose teacher is the task's own model.

    Where the task has no augmentation of its own, half of the batches are blended: pairs of samples are mixed, and the
    teacher's answer to the mixture is the aim. With few samples this keeps the student from learning them by heart
    (Beyer et al. 2022, Knowledge distillation: a good teacher is patient and consistent). Integer inputs are never
    blended.

    Parameters
    ----------
    task : Task
        Gives teacher, label loss and augmentation.
    temperature, alpha
        As in :func:`mixed_loss`.
    blend : bool
        False trains on the samples as they are.
    """

    def __init__(self, task: Task, *, temperature: float, alpha: float, blend: bool = True) -> None:
        self._task, self._temperature, self._alpha = task, temperature, alpha
        self._teacher = Teacher(task.model(), count=len(task.train))
        floating = all(leaf.is_floating_point() for leaf in leaves(task.examples(1)))
        self._blends = blend and task.augment is None and floating
        self._blended, self._share = False, 0.0

    def at(self, share: float) -> None:
        """Take note of how much of the training is done."""
        self._share = share

    def augment(self, inputs: Tree, generator: torch.Generator) -> Tree:
        """Return the batch as the student sees it."""
        if self._task.augment is not None:
            return self._task.augment(inputs, generator)
        draw = float(torch.rand((), generator=generator))
        self._blended = self._blends and self._share < _BLENDED_UNTIL and draw < _BLENDED
        return blend(inputs, generator) if self._blended else inputs

    def loss(self, outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch; blends have no label."""
        known = self._task.augment is None and not self._blended
        wanted = self._teacher(inputs, indices if known else None)
        alpha = 1.0 if self._blended else self._alpha
        return mixed_loss(outputs, wanted, targets, self._task.loss, temperature=self._temperature, alpha=alpha)


class Teacher:
    """A model in eval mode that remembers its answers to samples that stay as they are."""

    def __init__(self, module: nn.Module, *, count: int) -> None:
        self.module = set_layout(module, torch.channels_last).eval()
        self._known = torch.zeros(count, dtype=torch.bool)
        self._store: Tree = None

    def __call__(self, inputs: Tree, indices: torch.Tensor | None) -> Tree:
        """Return the outputs for ``inputs``; ``indices`` says which samples they are, None that they are new."""
        if indices is not None and bool(self._known[indices].all()):
            return tree_map(lambda kept: kept[indices], self._store)
        with torch.no_grad(), fast_products():
            outputs = tree_map(in_full, call_model(self.module, channels_last(inputs)))
        if indices is not None:
            self._keep(outputs, indices)
        return outputs

    def _keep(self, outputs: Tree, indices: torch.Tensor) -> None:
        if self._store is None:
            self._store = tree_map(lambda x: x.new_empty((len(self._known), *x.shape[1:])), outputs)
        for kept, new in zip(leaves(self._store), leaves(outputs), strict=True):
            kept[indices] = new
        self._known[indices] = True


def blend(inputs: Tree, generator: torch.Generator) -> Tree:
    """Return every sample mixed with another one of the batch, in a share of its own between 0 and 1."""
    count = len(leaves(inputs)[0])
    shares, partners = torch.rand(count, generator=generator), torch.randperm(count, generator=generator)

    def mix(x: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x, x[partners], shares.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))

    return tree_map(mix, inputs)


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
