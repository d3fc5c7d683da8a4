"""The step: every layer is replaced or answered for, and what it costs is what was counted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from compress_models import TinyViT, images, seeded, task_of
from torch import nn

from workbench.artifact.load import set_weights
from workbench.artifact.structure import describe_structure, own_tensors, replay
from workbench.compress import Factorize, Recipe
from workbench.compress.factorize.apply import factorize
from workbench.compress.handlers import Work
from workbench.compress.model_ops import count_macs, count_params
from workbench.core.errors import ConfigError, CoverageError
from workbench.core.progress import ignore_progress


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


def net_task():
    return task_of(seeded(net), *images())


def reasons_of(variant):
    return {layer.name: layer.reason for layer in variant.reports[0].layers}


def touched_of(variant):
    return [layer.name for layer in variant.reports[0].layers if layer.touched]


def test_every_layer_is_replaced_or_answered_for():
    variant = Recipe(Factorize(ratio=0.25)).apply(net_task())
    report = variant.reports[0]
    assert touched_of(variant) == ["0", "2", "4", "7", "8"]
    assert "depthwise" in reasons_of(variant)["3"] and "conv='spatial' can cut it" in reasons_of(variant)["3"]
    assert report.params_after == sum(p.numel() for p in variant.module.parameters()) < report.params_before
    saved = 32 * 9 - 2 * 41, 32 * 72 - 4 * 2 * (72 + 8), 32 * 288 - 8 * (32 + 288), 32 * 64 - 8 * 96, 64 * 4 - 68
    assert report.params_before - report.params_after == sum(saved)
    places = 64, 64, 16, 1, 1
    assert report.macs_before - report.macs_after == sum(p * s for p, s in zip(places, saved, strict=True))


@pytest.mark.parametrize("conv", ["spatial", "tucker2", "auto"])
def test_every_way_to_cut_saves_both_costs_in_every_layer_it_touches(conv):
    task = net_task()
    variant = Recipe(Factorize(energy=0.5, conv=conv)).apply(task)
    assert len(touched_of(variant)) >= 3
    words = [reason for name, reason in reasons_of(variant).items() if name in touched_of(variant) and name < "5"]
    assert conv == "auto" or all(conv in reason for reason in words)
    assert variant.macs == count_macs(variant.module, task.examples(2)) < variant.reports[0].macs_before
    assert ("3" in touched_of(variant)) == (conv != "tucker2")


def test_auto_costs_at_most_what_each_way_costs():
    task = net_task()
    macs = {
        conv: Recipe(Factorize(energy=0.7, conv=conv, exclude=("3",))).apply(task).macs
        for conv in ("channel", "spatial", "tucker2", "auto")
    }
    assert macs["auto"] == min(macs.values())


def test_full_energy_changes_nothing_and_says_so():
    with pytest.raises(CoverageError, match="break-even"):
        Recipe(Factorize(energy=1.0)).apply(net_task())


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("conv", ["channel", "auto"])
def test_a_budget_for_the_model_is_met_and_not_by_far(of, conv):
    task = net_task()
    variant = Recipe(Factorize(budget=0.6, of=of, conv=conv)).apply(task)
    module = task.model()
    before = count_params(module) if of == "params" else count_macs(module, task.examples(2))
    after = variant.params if of == "params" else variant.macs
    assert 0.5 * before < after <= 0.6 * before


def test_a_budget_that_cannot_be_met_says_how_far_it_gets():
    with pytest.raises(ConfigError, match=r"budget=0.05, of='macs'\) cannot be met: .* \d+% of the model's macs"):
        Recipe(Factorize(budget=0.05)).apply(net_task())


def test_some_layers_have_ratios_of_their_own():
    variant = Recipe(Factorize(ratio=0.25, ratios=("4=0.5", "[78]=1"))).apply(net_task())
    reasons = reasons_of(variant)
    assert "rank 16 of 32" in reasons["4"] and "rank 2 of 8" in reasons["2"]
    assert not {"7", "8"} & set(touched_of(variant))
    within = Recipe(Factorize(budget=0.6, ratios=("4=0.125",))).apply(net_task())
    assert "rank 4 of 32" in reasons_of(within)["4"]
    assert within.macs <= 0.6 * within.reports[0].macs_before
    with pytest.raises(ConfigError, match=r"no layer that can be split is called 'stem'"):
        Recipe(Factorize(ratios=("stem=0.5",))).apply(net_task())


def test_vbmf_keeps_what_stands_out_of_the_noise():
    def planted():
        layer = nn.Linear(64, 48)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(48, 5) @ torch.randn(5, 64) + 0.2 * torch.randn(48, 64))
        return nn.Sequential(nn.Flatten(), layer, nn.Linear(48, 4))

    variant = Recipe(Factorize(rank="vbmf")).apply(task_of(seeded(planted), *images()))
    assert "rank 5 of 48" in reasons_of(variant)["1"]
    # four outputs of random weights: nothing but noise
    assert "above the noise" in reasons_of(variant)["2"] or "break-even" in reasons_of(variant)["2"]


class Whitened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 24, 3, padding=1, groups=1)
        self.grouped = nn.Conv2d(24, 24, 3, groups=2, stride=2)
        self.wide = nn.Linear(24 * 9, 40)
        self.narrow = nn.Linear(40, 60)
        self.head = nn.Linear(60, 4)

    def forward(self, x):
        x = self.grouped(self.conv(x).relu()).relu().flatten(1)
        return self.head(self.narrow(self.wide(x).relu()).relu())


def test_whitened_factors_are_the_best_for_the_outputs_on_the_calibration_data():
    task = task_of(seeded(Whitened), *images(200))
    module = task.model()
    seen = {}
    for name, layer in module.named_children():
        layer.register_forward_hook(lambda _m, given, out, name=name: seen.update({name: (given[0], out)}))
    with torch.no_grad():
        module(task.calibration.inputs)
    plain, white = (Recipe(Factorize(ratio=0.25, whiten=on, min_saving=0)).apply(task) for on in (False, True))
    for name, layer in module.named_children():
        inputs, outputs = seen[name]
        bias = layer.bias.detach().double().numpy()
        wanted = outputs.movedim(1, -1).double().numpy() - bias
        groups = getattr(layer, "groups", 1)
        rank = getattr(white.module, name)[0].weight.shape[0] // groups
        parts = np.split(wanted.reshape(-1, wanted.shape[-1]), groups, axis=1)
        best = sum(float((np.linalg.svd(part, compute_uv=False)[rank:] ** 2).sum()) for part in parts)
        with torch.no_grad():
            error = {
                word: float((getattr(variant.module, name)(inputs) - outputs).double().square().sum())
                for word, variant in (("plain", plain), ("white", white))
            }
        assert error["white"] == pytest.approx(best, rel=1e-3)
        assert error["white"] <= error["plain"] * (1 + 1e-6)
    assert "energy of its outputs" in reasons_of(white)["conv"]


def test_shared_weights_and_layers_that_are_only_read_stay():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat = nn.Flatten()
            self.a, self.b, self.read = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
            self.peeked = nn.Linear(64, 64)
            self.head = nn.Linear(64, 64)
            self.b.weight = self.a.weight

        def forward(self, x):
            x = self.b(self.a(self.flat(x)))
            return self.head(self.peeked(x) @ self.read.weight) * self.peeked.weight.mean()

    variant = Recipe(Factorize(ratio=0.2)).apply(task_of(seeded(Tied), *images()))
    reasons = {layer.name: layer.reason for layer in variant.reports[0].layers if not layer.touched}
    assert reasons.keys() == {"a", "b", "read", "peeked"}
    assert "shared" in reasons["a"]
    assert "uses its weight directly" in reasons["read"]
    assert "forward fails with several layers" in reasons["peeked"]


def test_a_layer_under_two_names_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 64)
            self.again = self.first

        def forward(self, x):
            return self.again(self.first(x.flatten(1)))

    variant = Recipe(Factorize(ratio=0.2)).apply(task_of(seeded(Twice), *images()))
    assert variant.module.first is variant.module.again
    assert isinstance(variant.module.first, nn.Sequential)
    assert variant.reports[0].macs_before - variant.macs == 2 * (64 * 64 - 13 * 128)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.tied = nn.Embedding(40, 16, padding_idx=0), nn.Embedding(30, 16)
        self.along = nn.Conv1d(16, 16, 3, padding="same", padding_mode="replicate")
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.tied.weight

    def forward(self, x):
        return self.head(self.along((self.table(x) + self.tied(x)).mT).mean(2))


def words_task():
    x = torch.randint(0, 29, (64, 6), generator=torch.Generator().manual_seed(0))
    return task_of(seeded(Words), x, torch.arange(64) % 4)


@pytest.mark.parametrize(
    "task, options",
    [
        (net_task, {"conv": "spatial", "energy": 0.5}),
        (net_task, {"conv": "tucker2", "energy": 0.5}),
        (words_task, {"ratio": 0.25, "types": ("Embedding", "Conv1d")}),
    ],
    ids=["spatial", "tucker2", "embedding"],
)
def test_an_artifact_makes_the_new_layers_again(task, options, tmp_path):
    task = task()
    variant = Recipe(Factorize(**options)).apply(task)
    edits = json.loads(json.dumps(describe_structure(variant.module, task.model())))
    again = replay(task.model(), edits).eval()
    set_weights(again, {name: tensor.detach().clone() for name, tensor in own_tensors(variant.module)})
    with torch.no_grad():
        assert torch.equal(again(task.examples(3)), variant.module(task.examples(3)))


def test_embeddings_are_cut_on_request_unless_tied():
    task = words_task()
    with pytest.raises(CoverageError, match="not among the types"):
        Recipe(Factorize(ratio=0.25, exclude=("along",))).apply(task)
    variant = Recipe(Factorize(ratio=0.25, types=("Embedding", "Linear"))).apply(task)
    assert touched_of(variant) == ["table"]
    assert "384 MACs more" in reasons_of(variant)["table"]
    assert "shared" in reasons_of(variant)["tied"] and "shared" in reasons_of(variant)["head"]
    assert variant.macs - variant.reports[0].macs_before == 6 * 4 * 16


def test_types_and_names_choose_the_layers():
    variant = Recipe(Factorize(ratio=0.2, types=("Linear",), exclude=("qkv",))).apply(
        task_of(seeded(TinyViT), *images())
    )
    report = {layer.name: layer for layer in variant.reports[0].layers}
    assert report["fc1"].touched
    assert report["qkv"].reason == "excluded by name"
    assert report["embed"].reason == "not among the types"


def test_measured_splits_stay_where_the_clock_says_so():
    task, seen = net_task(), []

    def cost(variant):
        """A clock that dislikes a split of the first layer."""
        seen.append(variant)
        return variant.macs + 1e6 * isinstance(variant.module[0], nn.Sequential)

    outcome = factorize(Factorize(ratio=0.25, measured=True), Work(task, task.model(), ignore_progress, 0, cost))
    report = {layer.name: layer for layer in outcome.layers}
    assert not report["0"].touched and "past the measured break-even" in report["0"].reason
    assert report["4"].touched and "ms" in report["4"].reason
    assert len(seen) == 1 + 5
    assert Factorize().measured_on is None
    assert Factorize(measured=True, engine="openvino").measured_on == ("openvino", 32)
    with pytest.raises(ConfigError, match=r"recipe.apply\(task, cost=wb.latency_cost"):
        factorize(Factorize(measured=True), Work(task, task.model(), ignore_progress, 0))
    with pytest.raises(ConfigError, match="cost must return a number above 0, and returned nan"):
        factorize(Factorize(measured=True), Work(task, task.model(), ignore_progress, 0, lambda _: math.nan))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0.5, "budget": 0.5}, "ratio and budget each choose the rank"),
        ({"rank": "vbmf", "ratio": 0.5}, "ratio and rank='vbmf' each choose"),
        ({"whiten": True, "conv": "spatial"}, "requires conv='channel'"),
        ({"whiten": True, "budget": 0.5}, "requires energy or ratio"),
        ({"ratios": ("conv1",)}, "'name=ratio'"),
        ({"ratios": ("conv1=0",)}, "'name=ratio'"),
        ({"conv": "tucker"}, "Did you mean 'tucker2'"),
        ({"budget": 1.0}, "below 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ConfigError, match=f"(?i){words}"):
        Factorize(**options)


def test_labels_tell_the_ways_apart():
    options = [
        {},
        {"ratio": 0.5},
        {"conv": "spatial"},
        {"conv": "auto", "budget": 0.5},
        {"conv": "tucker2", "rank": "vbmf"},
        {"whiten": True, "measured": True},
        {"ratios": ("*=1", "conv=0.5")},
    ]
    assert [Factorize(**each).label for each in options] == [
        "low-rank 0.9 energy",
        "low-rank 0.5",
        "low-rank spatial 0.9 energy",
        "low-rank auto to 0.5 of macs",
        "low-rank tucker2 vbmf",
        "low-rank whitened 0.9 energy measured",
        "low-rank by layer",
    ]
