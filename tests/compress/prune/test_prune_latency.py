"""A budget of measured cost: with a cost that is known exactly, against every width there is."""

from __future__ import annotations

import pytest
from compress_models import images, seeded, task_of
from torch import nn

from workbench.compress import Prune, Recipe
from workbench.compress.model_ops import count_params
from workbench.core.errors import ConfigError

LATENCY = Prune(0.4, of="latency", engine="openvino", engine_batch=4, round_to=1)


def net():
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 40, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 4),
    )


def widths(module):
    return module[0].out_channels, module[2].out_channels


def by_steps(module, lane=8):
    """Return a cost as a vector unit has it: channels in lanes of eight, and a fixed part."""
    first, second = (-(-width // lane) for width in widths(module))
    return 1.0 + 0.1 * first + 0.5 * first * second


def applied(step, cost, build=net):
    x, y = images()
    return Recipe(step).apply(task_of(seeded(build), x, y), cost=cost)


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.7])
def test_the_cut_is_the_smallest_that_meets_the_budget(ratio):
    tried = []

    def cost(variant):
        tried.append(widths(variant.module))
        return by_steps(variant.module)

    variant = applied(LATENCY.replace(ratio=ratio), cost)
    budget = (1 - ratio) * by_steps(net())
    # every pair of widths that one ratio for both layers gives
    places = {(max(1, round(24 * (1 - r / 1000))), max(1, round(40 * (1 - r / 1000)))) for r in range(951)}

    def at(place):
        module = net()
        module[0].out_channels, module[2].out_channels = place
        return by_steps(module)

    widest = max(sum(place) for place in places if at(place) <= budget)
    assert by_steps(variant.module) <= budget
    # six halvings of the ratio's range leave it undecided within 1.5 points of the channels of either layer
    assert widest - 2 <= sum(widths(variant.module)) <= widest
    assert tried[0] == (24, 40)
    assert len(tried) == len(set(tried)) <= 8
    assert "Latency on openvino at batch 4" in variant.reports[0].notes[-1]


def test_rounds_share_the_budget():
    variant = applied(LATENCY.replace(rounds=2), lambda v: by_steps(v.module))
    assert by_steps(variant.module) <= 0.6 * by_steps(net())


def test_the_trial_is_a_variant_of_the_task():
    seen = []

    def cost(variant):
        seen.append((variant.params == count_params(variant.module), variant.task.name, variant.module.training))
        return by_steps(variant.module)

    applied(LATENCY, cost)
    assert set(seen) == {(True, "unit", False)}


def test_without_a_cost_nothing_starts():
    x, y = images()

    def build():
        raise AssertionError("the task was touched")

    task = task_of(build, x, y)
    with pytest.raises(ConfigError, match=r"openvino at batch 4.*wb\.latency_cost\(recipe\)"):
        Recipe(LATENCY).apply(task)


def test_a_cost_of_another_engine_is_refused():
    class Elsewhere:
        measures = ("onnxruntime", 4)

        def __call__(self, variant):
            return 1.0

    with pytest.raises(ConfigError, match="measures onnxruntime at batch 4"):
        applied(LATENCY, Elsewhere())


def test_a_cost_that_no_width_lowers_is_said():
    with pytest.raises(ConfigError, match="100% of the latency is left"):
        applied(LATENCY, lambda variant: 2.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="cost must return a number above 0"):
        applied(LATENCY, lambda variant: value)


def test_the_label_says_what_ratio_counts():
    assert LATENCY.label == "prune 0.4 latency"
    assert Prune(0.4, of="macs", scope="global").label == "prune 0.4 macs global"
