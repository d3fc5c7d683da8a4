"""Equalization leaves the float outputs, biases take the mean error out, and rankings are what they say."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from compress_models import OptionA, TinyViT, images, seeded, task_of
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from workbench.compress import Quantize, Recipe
from workbench.compress.graph.capture import capture
from workbench.compress.graph.interpreter import run_graph
from workbench.compress.handlers import Work
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.compress.quantize.bias_correction import correct_biases
from workbench.compress.quantize.calibrate import quantized_copy
from workbench.compress.quantize.equalize import equalize_pairs, smooth
from workbench.compress.quantize.float_layers import output_sqnr, smallest_passing
from workbench.compress.quantize.qspec import scheme_for
from workbench.core.errors import CoverageError


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


@pytest.mark.parametrize(
    "step", [Quantize(target="int8_dot"), Quantize(bits=4, activations="none")], ids=lambda step: step.label
)
def test_corrected_biases_leave_no_mean_error_behind_any_layer(step) -> None:
    x, y = images(96)
    build = seeded(OptionA)  # its stem has no bias to correct: it gets one
    work, scheme = work_of(build, x, y), scheme_for(step)
    graph = capture(work.module, x[:2])
    converted, _ = quantized_copy(graph, work, scheme, {})
    sample = work.task.calibration.inputs

    def means(module):
        names, found = {node.name for node, _ in weighted_nodes(graph)}, {}

        def see(node, _, value):
            if node.name in names:
                axes = [i for i in range(value.ndim) if i != (1 if value.ndim == 4 else value.ndim - 1)]
                found[node.name] = value.double().mean(axes)
            return value

        run_graph(module, sample, see)
        return found

    wanted, before = means(graph), means(converted)
    remarks = correct_biases(graph, converted, sample)
    after = means(converted)
    assert len(wanted) == 4
    for name, mean in wanted.items():
        assert float((after[name] - mean).abs().max()) < 1e-5
    assert max(float((before[name] - wanted[name]).abs().max()) for name in wanted) > 1e-4
    assert all("bias corrected" in words for words in remarks.values())
    torch.testing.assert_close(converted(sample).mean(0), graph(sample).mean(0), rtol=1e-3, atol=1e-4)


def test_a_layer_alone_is_rounded_as_in_the_whole() -> None:
    x, y = images(64)
    step = Quantize(target="int8_dot")
    work = work_of(seeded(OptionA), x, y)
    graph = capture(work.module, x[:2])
    converted, _ = quantized_copy(graph, work, scheme_for(step), {})
    sample = x[:16]
    ratios = output_sqnr(graph, converted, sample)
    assert set(ratios) == {"stem", "conv1", "conv2", "head"}
    # by another way: the head rounded by hand
    module = work.module
    seen = {}
    module.head.register_forward_hook(lambda _, given, out: seen.update(x=given[0].detach(), y=out.detach()))
    module(sample)
    (node,) = [n for n in converted.graph.nodes if "linear" in str(n.target)]
    scale, zero = node.args[0].args[1:3]
    h = (torch.clamp(torch.round(seen["x"] / scale) + zero, 0, 255) - zero) * scale
    weight = module.head.weight.detach()
    unit = weight.abs().amax(1, keepdim=True) / 127
    out = h @ (torch.round(weight / unit) * unit).T + module.head.bias.detach()
    noise = float((out - seen["y"]).double().square().sum())
    assert ratios["head"] == pytest.approx(10 * math.log10(float(seen["y"].double().square().sum()) / noise), abs=0.3)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 30), needed=st.integers(0, 30))
def test_bisection_finds_what_a_scan_finds(count: int, needed: int) -> None:
    tried = []

    def holds(n: int) -> bool:
        tried.append(n)
        return n >= needed

    assert smallest_passing(count, holds) == next((n for n in range(count) if n >= needed), count)
    assert len(tried) <= math.ceil(math.log2(count + 1)) + 1


class Fragile(nn.Module):
    """Its head takes a large constant beside what matters: rounding its input leaves nothing of that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 16), nn.Linear(16, 8), nn.Linear(8, 2)
        with torch.no_grad():
            self.second.weight *= 0.05
            self.second.weight[0] = 0.0
            self.second.bias[0] = 100.0
            self.head.weight[:, 0] = 0.0

    def forward(self, x):
        return self.head(self.second(torch.tanh(self.first(x.flatten(1)))))


def test_the_worst_layers_stay_in_float_until_the_quality_holds() -> None:
    x, _ = images(400)
    build = seeded(Fragile)
    with torch.no_grad():
        logits = build()(x)
        apart = logits[:, 0] - logits[:, 1]
        targets = (apart < apart.median()).long()
    middle = float(apart.median())
    task = task_of(
        build, x, targets, metric=lambda out, y: float((((out[:, 0] - out[:, 1]) < middle).long() == y).float().mean())
    )
    assert Recipe(Quantize()).apply(task).quality < 0.8
    mixed = Recipe(Quantize(keep_drop=0.1)).apply(task)
    report = mixed.reports[0]
    assert mixed.quality >= report.quality_before - 0.1
    assert [(layer.name, layer.touched) for layer in report.layers] == [
        ("first", True),
        ("second", True),
        ("head", False),
    ]
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert "kept in float" in reasons["head"]
    decibels = {name: float(words.split("SQNR ")[1].split(" dB")[0]) for name, words in reasons.items()}
    assert decibels["head"] < min(decibels["first"], decibels["second"]) - 10
    assert "1 of 3 layers stay in float" in report.notes[-1]


def test_nothing_is_kept_where_the_goal_holds_and_an_impossible_goal_is_an_error() -> None:
    x, _ = images(200)
    build = seeded(OptionA)
    with torch.no_grad():
        targets = build()(x).argmax(1)
    task = task_of(build, x, targets)
    report = Recipe(Quantize(target="int8_dot", keep_drop=1.0)).apply(task).reports[0]
    assert report.touched == 4
    assert "0 of 4 layers" in report.notes[-1]
    strict = task_of(build, x, targets, metric=_sameness(build, x))
    with pytest.raises(CoverageError, match="kept in float"):
        Recipe(Quantize(target="int8_dot", keep_drop=0.0)).apply(strict)


def _sameness(build, x):
    """Return a metric that any rounding at all makes worse."""
    module = build()
    known = module(torch.cat([x, x.flip(0) + 1])).detach()

    def metric(outputs, _):
        apart = torch.cdist(outputs.double(), known.double()).amin(1)
        return -float(apart.mean())

    return metric
