"""Equalization against hand computation: outputs stay, ranges become equal."""

from __future__ import annotations

import copy

import numpy as np
import torch
from compress_models import OptionA, TinyViT, images, seeded, task_of
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from workbench.compress import Quantize, Recipe
from workbench.compress.graph.capture import capture
from workbench.compress.handlers import Work
from workbench.compress.quantize.equalize import equalize_pairs, smooth


def work_of(build, x, y):
    return Work(task_of(build, x, y), build(), lambda _: None, 0)


class Pair(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module, between: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.second = first, between, second

    def forward(self, x):
        return self.second(self.between(self.first(x)))


@settings(max_examples=12, deadline=None)
@given(
    kernel=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    bias=st.booleans(),
    between=st.sampled_from([nn.ReLU(), nn.Identity(), nn.MaxPool2d(2), nn.LeakyReLU(0.1)]),
    seed=st.integers(0, 99),
)
def test_equalized_convolutions_give_the_same_outputs_and_reach_as_far(
    kernel, groups, stride, padding, bias, between, seed
) -> None:
    torch.manual_seed(seed)
    pair = Pair(
        nn.Conv2d(3, 4, kernel, stride=stride, padding=padding, bias=bias),
        nn.Conv2d(4, 8, kernel, padding=padding, groups=groups, bias=bias),
        between,
    )
    with torch.no_grad():
        pair.first.weight *= torch.logspace(-2, 1, 4)[:, None, None, None]
    x = torch.randn(2, 3, 15, 15)  # what stride and pooling leave still holds a kernel
    graph = capture(pair, x)
    wanted = pair(x).detach()
    remarks = equalize_pairs(graph)
    assert remarks == {
        "first": "outputs equalized with second",
        "second": "outputs not equalized: its output is the model's output",
    }
    torch.testing.assert_close(graph(x), wanted, rtol=1e-4, atol=1e-4)
    first, second = (dict(graph.named_parameters())[f"{name}.weight"].detach() for name in ("first", "second"))
    per_group = 8 // groups
    taken = [
        float(
            second[c // (4 // groups) * per_group : (c // (4 // groups) + 1) * per_group, c % (4 // groups)].abs().max()
        )
        for c in range(4)
    ]
    np.testing.assert_allclose(first.abs().flatten(1).amax(1).numpy(), taken, rtol=1e-3)


def test_linears_and_pooled_convolutions_are_pairs_and_the_rest_says_why() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.hidden, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 5), nn.Linear(5, 4)
            self.side, self.gated = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = self.head(F.relu(self.hidden(F.relu(self.conv(x)).mean((2, 3)))))
            return self.gated(F.gelu(self.side(h))) + h

    build = seeded(Net)
    x, _ = images(8)
    graph = capture(build(), x)
    remarks = equalize_pairs(graph)
    torch.testing.assert_close(graph(x), build()(x).detach(), rtol=1e-4, atol=1e-5)
    assert remarks["conv"] == "outputs equalized with hidden"
    assert remarks["hidden"] == "outputs equalized with head"
    assert "several operators" in remarks["head"]
    assert "gelu" in remarks["side"]


def test_equalizing_saves_a_net_with_channels_of_very_different_size() -> None:
    def build():
        module = seeded(OptionA)()
        with torch.no_grad():
            factor = torch.logspace(-3, 0, 32)
            module.norm1.weight *= factor
            module.norm1.bias *= factor
            module.conv2.weight /= factor[None, :, None, None]
        return module

    x, y = images()
    work = work_of(build, x, y)
    whole = build()(x[:16]).detach()
    errors = {}
    for name in ("none", "cross_layer"):
        step = Quantize(per_channel=False, equalize=name, target="int8_dot")
        got = Recipe(step).apply(work.task).predict(x[:16])
        errors[name] = float((got - whole).square().mean())
    assert errors["cross_layer"] < 0.2 * errors["none"]


def test_smoothing_moves_ranges_as_the_formula_says_and_leaves_the_outputs() -> None:
    def build():
        module = seeded(TinyViT)()
        with torch.no_grad():
            module.norm1.weight[3] = 30.0
            module.norm1.bias.normal_()
        return module

    x, _ = images(32)
    module, alpha = build(), 0.7
    untouched = copy.deepcopy(module.state_dict())
    graph = capture(module, x[:2])
    seen = {}
    module.norm1.register_forward_hook(lambda _, __, out: seen.update(norm1=out.detach()))
    wanted = module(x).detach()
    remarks = smooth(graph, x, alpha=alpha)
    torch.testing.assert_close(graph(x), wanted, rtol=1e-4, atol=1e-4)
    reach = seen["norm1"].abs().amax((0, 1)).double().numpy()
    weight = module.qkv.weight.detach().double().numpy()
    scale = reach**alpha / np.abs(weight).max(0) ** (1 - alpha)
    now = {name: value.detach().double().numpy() for name, value in graph.named_parameters()}
    np.testing.assert_allclose(now["qkv.weight"], weight * scale, rtol=1e-4)
    np.testing.assert_allclose(now["norm1.weight"], module.norm1.weight.detach().double().numpy() / scale, rtol=1e-4)
    np.testing.assert_allclose(now["norm1.bias"], module.norm1.bias.detach().double().numpy() / scale, rtol=1e-4)
    assert all(torch.equal(value, untouched[name]) for name, value in module.state_dict().items())
    assert remarks["qkv"] == remarks["fc1"] == "smoothed with the norm before it"
    assert "not smoothed" in remarks["proj"]


def test_a_norm_that_others_read_too_is_left_alone() -> None:
    class PostNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.fc, self.head = (
                nn.Linear(8, 8),
                nn.LayerNorm(8),
                nn.Linear(8, 8),
                nn.Linear(8, 4),
            )

        def forward(self, x):
            h = self.norm(self.embed(x.flatten(2).mean(1)))
            return self.head(h + self.fc(h))

    build = seeded(PostNorm)
    x, y = torch.randn(40, 3, 8), torch.randint(0, 4, (40,))
    task = task_of(build, x, y)
    report = Recipe(Quantize(equalize="smooth")).apply(task).reports[0]
    assert "other operators" in {layer.name: layer.reason for layer in report.layers}["fc"]
    assert any("changed no layer" in note for note in report.notes)
