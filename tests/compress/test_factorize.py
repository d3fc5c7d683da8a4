"""Factorization, against numpy's singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_models import TinyViT, images, seeded, task_of
from torch import nn

from workbench.compress import Factorize, Recipe
from workbench.compress.factorize import rank_by_energy, saving, split_conv, split_linear
from workbench.core.errors import CoverageError


def truncated(matrix, rank):
    u, s, v = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def test_two_linears_are_the_best_approximation():
    torch.manual_seed(0)
    layer = nn.Linear(12, 7)
    first, second = split_linear(layer, 3)
    product = (second.weight @ first.weight).detach().numpy()
    np.testing.assert_allclose(product, truncated(layer.weight.detach(), 3), atol=1e-6)
    assert torch.equal(second.bias, layer.bias)
    assert first.bias is None


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": "same"}])
def test_two_convolutions_are_one_with_a_truncated_weight(options):
    torch.manual_seed(1)
    layer = nn.Conv2d(5, 8, 3, **options)
    weight = truncated(layer.weight.detach().flatten(1), 4).reshape(layer.weight.shape)
    oracle = nn.Conv2d(5, 8, 3, **options)
    oracle.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": layer.bias})
    x = torch.randn(2, 5, 9, 9)
    with torch.no_grad():
        assert torch.allclose(split_conv(layer, 4)(x), oracle(x), atol=1e-5)


def test_the_rank_keeps_the_energy_asked_for():
    values = torch.tensor([3.0, 2.0, 1.0, 0.5])
    squares = np.square([3.0, 2.0, 1.0, 0.5])
    for energy in (0.5, 0.63, 0.9, 0.98, 1.0):
        rank = rank_by_energy(values, energy)
        assert squares[:rank].sum() >= energy * squares.sum() - 1e-9
        assert rank == 1 or squares[: rank - 1].sum() < energy * squares.sum()


def test_savings_are_those_of_the_counted_layers():
    layer = nn.Conv2d(16, 32, 3, bias=False)
    split = split_conv(layer, 8)
    params = sum(p.numel() for p in split.parameters())
    assert saving(layer, 8) == pytest.approx(1 - params / layer.weight.numel())
    assert saving(nn.Linear(10, 10), 5) == pytest.approx(0.0)


def net():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=4),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 64),
        nn.Linear(64, 4),
    )


def test_every_layer_is_replaced_or_answered_for():
    x, y = images()
    variant = Recipe(Factorize(ratio=0.25)).apply(task_of(seeded(net), x, y))
    report = variant.reports[0]
    reasons = {layer.name: layer.reason for layer in report.layers}
    touched = [layer.name for layer in report.layers if layer.touched]
    assert touched == ["0", "4", "7", "8"]
    assert "grouped" in reasons["2"]
    assert "depthwise" in reasons["3"]
    assert report.params_after == sum(p.numel() for p in variant.module.parameters()) < report.params_before
    saved = 32 * 9 - 2 * 41, 32 * 288 - 8 * (32 + 288), 32 * 64 - 8 * 96, 64 * 4 - 68
    assert report.params_before - report.params_after == sum(saved)
    assert report.macs_before - report.macs_after == 64 * saved[0] + 16 * saved[1] + saved[2] + saved[3]


def test_full_energy_changes_nothing_and_says_so():
    x, y = images()
    with pytest.raises(CoverageError, match="break-even"):
        Recipe(Factorize(energy=1.0)).apply(task_of(seeded(net), x, y))


def test_shared_weights_and_layers_that_are_only_read_stay():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat = nn.Flatten()
            self.a, self.b, self.read = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
            self.head = nn.Linear(64, 64)
            self.b.weight = self.a.weight

        def forward(self, x):
            x = self.b(self.a(self.flat(x)))
            return self.head(x @ self.read.weight)

    x, y = images()
    variant = Recipe(Factorize(ratio=0.2)).apply(task_of(seeded(Tied), x, y))
    reasons = {layer.name: layer.reason for layer in variant.reports[0].layers if not layer.touched}
    assert reasons.keys() == {"a", "b", "read"}
    assert "shared" in reasons["a"]
    assert "uses its weight directly" in reasons["read"]


def test_types_and_names_choose_the_layers():
    x, y = images()
    variant = Recipe(Factorize(ratio=0.2, types=("Linear",), exclude=("qkv",))).apply(task_of(seeded(TinyViT), x, y))
    report = {layer.name: layer for layer in variant.reports[0].layers}
    assert report["fc1"].touched
    assert report["qkv"].reason == "excluded by name"
    assert report["embed"].reason == "not among the types asked for"
