"""Distillation objective: teacher outputs, labels, and mixup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.compress.distill.config import Distill
from workbench.compress.model_ops import predict_with
from workbench.compress.training.features import FeatureMatching
from workbench.compress.training.losses import class_outputs, mixed_loss, resolve_heads
from workbench.compress.training.numerics import Forward, channels_last, set_memory_format
from workbench.tasks.module import weights_digest
from workbench.tasks.trees import Tree, leaves, tree_map

if TYPE_CHECKING:
    from workbench.tasks.task import Task

CACHE_BYTES = 256 << 20
"""Largest size of the cached teacher outputs; beyond it the teacher runs on every batch."""
# Half of the batches are mixed; the last part of the training has only real samples, for the statistics of batch norm.
_BLENDED, _BLENDED_UNTIL = 0.5, 0.85


class DistillationObjective:
    """Batches and loss of a student, with the task's model or another one as teacher.

    With ``blend`` half of the batches are mixed (mixup): pairs of samples, after augmentation, are interpolated, and
    the teacher's output for the mixture is the target. That reduces overfitting on few samples (Beyer et al. 2022,
    Knowledge distillation: a good teacher is patient and consistent). ``"auto"`` mixes if the task has no augmentation;
    integer inputs are never mixed. The kind ``"auto"`` of a head follows the task's loss, see :func:`class_outputs`.
    ``matching`` compares layers inside the student and this teacher too.
    """

    def __init__(
        self, task: Task, step: Distill, *, teacher: nn.Module | None = None, matching: FeatureMatching | None = None
    ) -> None:
        self._task, self._step, self._matching = task, step, matching
        own = task.model()
        example = predict_with(own, task.examples(2))
        self._heads = resolve_heads(step.head_rules, example, class_outputs(task, own))
        module = own if teacher is None else teacher
        self.identity = weights_digest(module)
        self._teacher = Teacher(module, count=len(task.train), precision=step.precision, matching=matching)
        floating = all(leaf.is_floating_point() for leaf in leaves(task.examples(1)))
        self._blends = floating and (task.augment is None if step.blend == "auto" else bool(step.blend))
        self._blended, self._share = False, 0.0
        self._repeats = is_deterministic(task)

    def at(self, share: float) -> None:
        """Set the share of the training that is done."""
        self._share = min(1.0, share)

    def augment(self, inputs: Tree, generator: torch.Generator) -> Tree:
        """Return the augmented batch for the student."""
        if self._task.augment is not None:
            inputs = self._task.augment(inputs, generator)
        draw = float(torch.rand((), generator=generator))
        self._blended = self._blends and self._share < _BLENDED_UNTIL and draw < _BLENDED
        return blend(inputs, generator) if self._blended else inputs

    def loss(self, outputs: Tree, inputs: Tree, targets: Tree, indices: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch; mixed samples have no label."""
        repeats = self._repeats and not self._blended
        soft_targets, maps = self._teacher(inputs, indices if repeats else None)
        step = self._step
        temperature = self._now(step.temperature, step.temperature_end)
        alpha = 1.0 if self._blended else self._now(step.alpha, step.alpha_end)
        options: dict[str, Any] = {"temperature": temperature, "alpha": alpha, "heads": self._heads}
        value = mixed_loss(outputs, soft_targets, targets, self._task.loss, **options)
        return value + self._matching.loss(maps) if self._matching else value

    def state_dict(self) -> dict[str, Any]:
        """Return the cached teacher outputs for a checkpoint."""
        return self._teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the cached teacher outputs from a checkpoint."""
        self._teacher.load_state_dict(state, self._task.train.take([0]).inputs)

    def _now(self, start: float, end: float | None) -> float:
        return start if end is None else start + self._share * (end - start)


class Teacher:
    """A model in eval mode with a cache of its outputs and the feature maps that ``matching`` compares.

    Samples that are the same in every epoch are cached if the cache fits in memory.
    """

    def __init__(
        self, module: nn.Module, *, count: int, precision: str = "auto", matching: FeatureMatching | None = None
    ) -> None:
        self.module = set_memory_format(module, torch.channels_last).eval()
        self._forward, self._matching = Forward(precision), matching
        self._cached = torch.zeros(count, dtype=torch.bool)
        self._store: Tree = None
        self._fits = True

    def __call__(self, inputs: Tree, indices: torch.Tensor | None) -> tuple[Tree, dict[str, torch.Tensor]]:
        """Return outputs and maps for ``inputs``; ``indices`` identify cacheable samples, None: not cacheable."""
        if indices is not None and bool(self._cached[indices].all()):
            cached: tuple[Tree, dict[str, torch.Tensor]] = tree_map(lambda kept: kept[indices], self._store)
            return cached
        with torch.no_grad():
            outputs = self._forward(self.module, channels_last(inputs))
        answer = outputs, self._matching.teacher_maps() if self._matching else {}
        if indices is not None and self._fits:
            self._keep(answer, indices)
        return answer

    def state_dict(self) -> dict[str, Any]:
        """Return the cache as plain tensors."""
        return {"known": self._cached, "answers": leaves(self._store)}

    def load_state_dict(self, state: dict[str, Any], example: Tree) -> None:
        """Restore the cache; ``example`` is a batch of inputs, for the structure of the outputs."""
        self._cached = state["known"]
        if state["answers"]:
            kept = iter(state["answers"])
            self._store = tree_map(lambda _: next(kept), self(example, None))

    def _keep(self, answer: Tree, indices: torch.Tensor) -> None:
        if self._store is None:
            tensors = leaves(answer)
            size = sum(x.nbytes for x in tensors) / len(indices) * len(self._cached)
            self._fits = size <= CACHE_BYTES and all(x.ndim and len(x) == len(indices) for x in tensors)
            if not self._fits:
                return
            self._store = tree_map(lambda x: x.new_empty((len(self._cached), *x.shape[1:])), answer)
        for kept, new in zip(leaves(self._store), leaves(answer), strict=True):
            kept[indices] = new
        self._cached[indices] = True


def is_deterministic(task: Task) -> bool:
    """Return whether samples are the same in every epoch: no augmentation, or a deterministic one."""
    if task.augment is None:
        return True
    generator, inputs = torch.Generator().manual_seed(0), task.train.take(range(min(8, len(task.train)))).inputs
    with torch.random.fork_rng(devices=[]):
        states = [generator.get_state(), torch.get_rng_state()]
        first, second = (leaves(task.augment(tree_map(torch.clone, inputs), generator)) for _ in range(2))
        after = [generator.get_state(), torch.get_rng_state()]
    return all(torch.equal(a, b) for a, b in zip([*states, *first], [*after, *second], strict=True))


def blend(inputs: Tree, generator: torch.Generator) -> Tree:
    """Return every sample mixed with another one of the batch, with a random weight each."""
    count = len(leaves(inputs)[0])
    shares, partners = torch.rand(count, generator=generator), torch.randperm(count, generator=generator)

    def mix(x: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x, x[partners], shares.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))

    return tree_map(mix, inputs)
