"""Measured cost: the mechanics on a real engine, without a word about how long anything takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import workbench as wb
from workbench.compress import Prune, Recipe
from workbench.compress.variant import Variant
from workbench.core.errors import ConfigError
from workbench.measure.comparison.latency_cost import LatencyCost, latency_cost
from workbench.tasks.builtin import accuracy


def test_a_recipe_says_what_is_measured():
    step = Prune(0.4, of="latency", engine="onnxruntime", engine_batch=4)
    cost = latency_cost(Recipe(step))
    assert cost is not None and cost.measures == ("onnxruntime", 4)
    assert latency_cost(Recipe(Prune())) is None


def test_two_engines_in_one_recipe_are_refused():
    from workbench.compress import Recover

    steps = [Prune(0.2, of="latency", engine=name) for name in ("onnxruntime", "openvino")]
    with pytest.raises(ConfigError, match="onnxruntime at batch 32 and openvino at batch 32"):
        latency_cost(Recipe(steps[0], Recover(), steps[1]))


def test_an_unknown_engine_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'onnxruntime'"):
        latency_cost(Recipe(Prune(of="latency", engine="onnxruntim")))


@pytest.mark.slow
def test_a_variant_is_timed_in_turns_with_the_first(tiny_task, monkeypatch):
    """The engine is real, the timing is not: blocks of known length in place of the clock."""
    import numpy as np

    from workbench.timing.interleave import CallArm

    calls = []

    def block(self, seconds):
        self._call()
        calls.append(self.name)
        return np.full(3, 8.0 if self.name == "reference" else 2.0)

    monkeypatch.setattr(CallArm, "block", block)
    monkeypatch.setattr(CallArm, "warm", lambda self: self._call())
    variant = Variant.original(tiny_task)
    with LatencyCost("onnxruntime", batch_size=4, threads=1) as cost:
        assert cost(variant) == 8.0
        assert set(calls) == {"reference"}
        calls.clear()
        assert cost(variant) == pytest.approx(2.0)
        assert calls.count("candidate") == calls.count("reference") == 4
    assert cost._reference is None


@pytest.mark.slow
def test_pruning_to_a_latency_runs_on_onnxruntime():
    """Noise decides the width; that something was cut, measured and said is all that holds on any machine.

    The layers are so wide that a call is spent on them: where it is spent on the call, no width meets a budget.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4))
    inputs, labels = torch.randn(160, 64), torch.randint(4, (160,))
    task = wb.Task(
        name="wide",
        build=lambda: net,
        train=(inputs[:80], labels[:80]),
        evaluation=(inputs[80:], labels[80:]),
        metric=accuracy,
        loss=cross_entropy,
    )
    recipe = Recipe(Prune(0.3, of="latency", engine="onnxruntime", engine_batch=64, round_to=64))
    with latency_cost(recipe, threads=1) as cost:
        variant = recipe.apply(task, cost=cost)
    report = variant.reports[0]
    assert report.params_after < report.params_before
    assert "Latency on onnxruntime at batch 64" in report.notes[-1]


@pytest.mark.slow
def test_the_preparing_process_measures_by_itself(tiny_spec, tmp_path, monkeypatch):
    from workbench.study.workers.prepare_main import PrepareWorker

    measured = []

    def count(self, variant):
        measured.append(self.measures)
        return float(variant.params)

    monkeypatch.setattr(LatencyCost, "__call__", count)
    threads = torch.get_num_threads()
    try:
        preparer = PrepareWorker(lambda *_, **__: None)
        preparer.task({"reference": tiny_spec, "prefix_cache": False}, b"")
        recipe = Recipe(Prune(0.5, of="latency", engine="onnxruntime", engine_batch=2, round_to=1))
        answer = preparer.prepare(
            {"recipe": recipe.to_dict(), "folder": str(tmp_path / "artifact"), "batch_sizes": [1]}, b""
        )
    finally:
        torch.set_num_threads(threads)
    assert set(measured) == {("onnxruntime", 2)}
    assert answer["params"] <= 0.5 * answer["steps"][0]["params_before"]
