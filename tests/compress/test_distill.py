"""Distillation: the loss by hand, the teacher's memory, and training that ends on time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_models import images, seeded, task_of, two_heads_task
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional as F

from workbench.compress import Distill, Prune, Recipe, Recover
from workbench.compress.lesson import Lesson, Teacher, blend
from workbench.compress.losses import leaf_loss, mixed_loss
from workbench.core.errors import WorkbenchError


def test_the_loss_of_logits_is_the_divergence_by_hand():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    temperature = 3.0
    p, q = log_softmax(teacher / temperature, axis=1), log_softmax(student / temperature, axis=1)
    by_hand = (np.exp(p) * (p - q)).sum(1).mean() * temperature**2
    got = leaf_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert float(got) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("shape", [(5, 1), (5,), (5, 2, 3)])
def test_other_outputs_are_compared_by_their_squares(shape):
    student, teacher = torch.randn(shape), torch.randn(shape)
    by_hand = float(((student - teacher) ** 2).mean())
    assert float(leaf_loss(student, teacher, 4.0)) == pytest.approx(by_hand, rel=1e-5)


def test_all_floating_leaves_and_the_labels_are_mixed():
    mine = {"logits": torch.randn(4, 3), "map": torch.randn(4, 2, 2), "count": torch.zeros(4, dtype=torch.int64)}
    theirs = {"logits": torch.randn(4, 3), "map": torch.randn(4, 2, 2), "count": torch.ones(4, dtype=torch.int64)}
    labels = torch.tensor([0, 1, 2, 0])
    soft = (leaf_loss(mine["logits"], theirs["logits"], 2.0) + F.mse_loss(mine["map"], theirs["map"])) / 2
    hard = F.cross_entropy(mine["logits"], labels)

    def label_loss(out, y):
        return F.cross_entropy(out["logits"], y)

    got = mixed_loss(mine, theirs, labels, label_loss, temperature=2.0, alpha=0.7)
    assert float(got) == pytest.approx(float(0.7 * soft + 0.3 * hard), rel=1e-5)
    with pytest.raises(WorkbenchError, match="floating-point output"):
        mixed_loss(labels, labels, labels, label_loss, temperature=2.0, alpha=0.7)


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return {"y": self.linear(x)}


def test_the_teacher_is_asked_once_per_sample():
    teacher = Teacher(Counting(), count=6)
    x = torch.randn(6, 3)
    first = teacher(x[[0, 2, 4]], torch.tensor([0, 2, 4]))
    teacher(x[[1, 3, 5]], torch.tensor([1, 3, 5]))
    again = teacher(x[[4, 1]], torch.tensor([4, 1]))
    assert teacher.module.calls == 2
    assert torch.equal(again["y"][0], first["y"][2])
    teacher(x, None), teacher(x, None)
    assert teacher.module.calls == 4


def test_blends_lie_between_two_samples():
    x = torch.arange(8.0)[:, None].expand(8, 3)
    mixed = blend({"a": x, "b": x[:, :, None]}, torch.Generator().manual_seed(0))
    assert torch.equal(mixed["a"], mixed["b"][:, :, 0])
    assert torch.allclose(mixed["a"][:, 0], mixed["a"][:, 2])
    assert not torch.equal(mixed["a"], x)
    assert 0 <= float(mixed["a"].min()) <= float(mixed["a"].max()) <= 7


def blended(task, share, **options):
    lesson = Lesson(task, temperature=4.0, alpha=0.9, **options)
    lesson.at(share)
    x, generator = task.train.inputs[:8], torch.Generator().manual_seed(0)
    return [not torch.equal(lesson.augment(x, generator), x) for _ in range(40)]


def test_half_of_the_batches_are_blends_until_the_last_part(tiny_task):
    assert 10 < sum(blended(tiny_task, 0.5)) < 30
    assert not any(blended(tiny_task, 0.9))
    assert not any(blended(tiny_task, 0.5, blend=False))
    x, y = images()
    own = task_of(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), x, y, augment=lambda x, g: x + 1)
    assert all(blended(own, 0.9))


def test_integer_inputs_are_never_blended():
    tokens = torch.randint(0, 9, (64, 5))
    task = task_of(
        seeded(lambda: nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(40, 4))), tokens, images()[1]
    )
    assert not any(blended(task, 0.5))


def test_distillation_wins_back_what_pruning_cost(tiny_task):
    cache = {}
    pruned = Recipe(Prune(0.5)).apply(tiny_task, cache=cache)
    distilled = Recipe(Prune(0.5), Distill(epochs=6)).apply(tiny_task, cache=cache)
    recovered = Recipe(Prune(0.5), Recover(epochs=6)).apply(tiny_task, cache=cache)
    assert pruned.quality < 0.8
    assert min(distilled.quality, recovered.quality) > pruned.quality + 0.1
    assert distilled.module.stem.weight.is_contiguous()
    assert not distilled.module.training
    report = distilled.reports[-1]
    assert report.touched == len(report.layers)
    assert (report.params_before, report.macs_before) == (report.params_after, report.macs_after)


def test_several_inputs_and_outputs_can_be_distilled():
    variant = Recipe(Distill(epochs=1)).apply(two_heads_task())
    assert variant.reports[0].epochs_done == 1


def test_weights_that_are_frozen_stay_and_are_reported():
    def build():
        module = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)))()
        module[1].requires_grad_(False)
        return module

    x, y = images()
    report = Recipe(Distill(epochs=1, alpha=0.0)).apply(task_of(build, x, y)).reports[0]
    assert {layer.name: layer.touched for layer in report.layers} == {"1": False, "3": True}
    assert "gradients" in report.layers[0].reason
