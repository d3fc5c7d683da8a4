"""Layers kept in float: SQNR of one layer alone, bisection, and keep_drop as a whole."""

from __future__ import annotations

import math

import pytest
import torch
from compress_models import OptionA, images, seeded, task_of
from hypothesis import given, settings, strategies as st
from torch import nn

from workbench.compress import Quantize, Recipe
from workbench.compress.graph.capture import capture
from workbench.compress.handlers import Work
from workbench.compress.quantize.apply import output_sqnr, quantized_copy, smallest_passing
from workbench.compress.quantize.qspec import scheme_for
from workbench.core.errors import CoverageError


def work_of(build, x, y):
    return Work(task_of(build, x, y), build(), lambda _: None, 0)


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
