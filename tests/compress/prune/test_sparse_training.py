"""Training that makes weak channels shrink first: the penalties of torch-pruning, and what they do."""

from __future__ import annotations

import pytest
import torch
import torch_pruning
from compress_models import TinyViT, images, seeded, task_of
from torch import nn
from torch.nn import functional as F

from workbench.compress import Prune, Recipe
from workbench.compress.handlers import Work
from workbench.compress.prune.apply import _State, prune
from workbench.compress.prune.sparse_training import train_sparse
from workbench.compress.training.optimizer_hooks import optimizer_step_hooks
from workbench.core.errors import ConfigError
from workbench.core.progress import ignore_progress


def net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


def first_gradients(step, build=net, **options):
    """Return the gradients of the first training step of a task whose own loss is flat."""
    x, y = images()
    task = task_of(seeded(build), x, y, loss=lambda out, y: 0.0 * F.cross_entropy(out, y), **options)
    found = []

    def keep(optimizer):
        if not found:
            found.extend(p.grad.clone() for group in optimizer.param_groups for p in group["params"])

    with optimizer_step_hooks(after=keep):
        Recipe(step).apply(task)
    return {tuple(gradient.shape): gradient for gradient in found}


def pruner_of(kind, module, **options):
    x, _ = images()
    head = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    return kind(module, x[:2], importance, ignored_layers=[head], **options)


def oracle(pruner, module):
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize(module)
    return {tuple(p.shape): p.grad for p in module.parameters()}


def test_the_penalty_on_group_norms_is_that_of_torch_pruning_called_directly():
    found = first_gradients(Prune(0.5, sparse_epochs=1.0, sparse_strength=0.32))
    module = seeded(net)()
    wanted = oracle(pruner_of(torch_pruning.pruner.GroupNormPruner, module, reg=0.02), module)
    assert found.keys() == wanted.keys()
    for shape, gradient in found.items():
        assert torch.allclose(gradient, wanted[shape], atol=1e-6), shape
    weight = module[0].weight.detach()
    share = found[tuple(weight.shape)] / weight
    assert float(share.min()) == pytest.approx(0.02) and float(share.max()) == pytest.approx(0.32)


def test_the_growing_penalty_is_that_of_torch_pruning_called_directly():
    found = first_gradients(Prune(0.5, sparse_epochs=1.0, sparse_strength=0.4, sparse_by="growing"))
    module = seeded(net)()
    pruner = pruner_of(torch_pruning.pruner.GrowingRegPruner, module, reg=0.0, delta_reg=0.02)
    pruner.update_reg()
    for shape, gradient in oracle(pruner, module).items():
        assert torch.allclose(found[shape], gradient, atol=1e-6), shape


def test_the_penalty_on_batch_norm_scales_pulls_at_their_signs():
    build = seeded(net)
    found = first_gradients(Prune(0.5, sparse_epochs=1.0, sparse_strength=0.01, sparse_by="bn_scale"))
    assert torch.allclose(found[(16, 1, 3, 3)], torch.zeros(16, 1, 3, 3))
    assert build()[4].weight.min() > 0
    # weights and biases of a norm have one shape: the biases, which come last, are left alone
    kept = []

    def keep(optimizer):
        kept.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"] if p.shape == (24,)])

    x, y = images()
    task = task_of(build, x, y, loss=lambda out, y: 0.0 * F.cross_entropy(out, y))
    with optimizer_step_hooks(after=keep):
        Recipe(Prune(0.5, sparse_epochs=1.0, sparse_strength=0.01, sparse_by="bn_scale")).apply(task)
    sums = sorted(float(gradient.sum()) for gradient in kept[0])
    assert sums == pytest.approx([0.0, 0.0, 0.24])


def test_what_stays_whole_is_not_pulled_at():
    found = first_gradients(Prune(0.5, sparse_epochs=1.0, exclude=("3",)))
    assert bool((found[(16, 1, 3, 3)] != 0).any())
    assert not bool((found[(4, 24)] != 0).any())
    # the excluded convolution loses inputs with the first one, and no outputs
    assert bool((found[(24, 16, 3, 3)] != 0).any())


def test_a_model_without_batch_norm_cannot_be_pulled_at_its_scales():
    x, y = images()
    with pytest.raises(ConfigError, match=r"sparse_by='bn_scale'.*no group.*Use sparse_by='group_norm'"):
        Recipe(Prune(0.5, sparse_epochs=0.1, sparse_by="bn_scale")).apply(task_of(seeded(TinyViT), x, y))


def norms(module):
    """Return the norm of each channel of the inner group: its filter, its scale, and the weights that read it."""
    parts = [
        module.inner1.weight.detach().flatten(1).square().sum(1),
        module.norm1.weight.detach().square(),
        module.inner2.weight.detach().transpose(0, 1).flatten(1).square().sum(1),
    ]
    return torch.stack(parts).sum(0).sqrt().sort().values


@pytest.mark.slow
def test_channels_shrink_and_less_is_lost_when_they_go(tiny_task):
    """Equal training with and without the penalty, then the same share of the channels cut."""
    weakest, lost = {}, {}
    for strength in (1e-9, 0.5):
        step = Prune(0.5, sparse_epochs=16.0, sparse_strength=strength, round_to=1)
        work = Work(tiny_task, tiny_task.model(), ignore_progress, 0)
        assert train_sparse(step, work, _State(step, work).groups()[0]) == 16.0
        sizes = norms(work.module)
        weakest[strength] = float(sizes[:8].mean() / sizes.mean())
        outcome = prune(step.replace(sparse_epochs=0.0, sparse_strength=0.3), work)
        assert outcome.module.inner1.out_channels == 8
        with torch.no_grad():
            outputs = outcome.module(tiny_task.train.inputs)
        lost[strength] = float(tiny_task.loss(outputs, tiny_task.train.targets))
    assert weakest[0.5] < 0.3 < 0.9 < weakest[1e-9]
    assert lost[0.5] < 0.7 * lost[1e-9]


def test_the_step_counts_the_epochs_and_rewinds_over_them():
    x, y = images()
    build = seeded(net)
    step = Prune(0.5, sparse_epochs=2.0, sparse_strength=0.1, rewind=True, round_to=1)
    variant = Recipe(step).apply(task_of(build, x, y))
    assert variant.reports[0].epochs_done == 2.0
    original = {tuple(row.flatten().tolist()) for row in build()[0].weight}
    assert {tuple(row.flatten().tolist()) for row in variant.module[0].weight} < original
