"""Which layers Prune compares, which ones it looks at, and when: against torch-pruning and formulas by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch_pruning
from compress_models import Attentive, images, seeded, task_of
from hypothesis import given, strategies as st
from torch import nn
from torch.nn import functional as F

from workbench.compress import Distill, Prune, Recipe
from workbench.compress.prune.channel_selection import select_channels
from workbench.compress.prune.groups import Group
from workbench.compress.step import SCHEDULES, scheduled_share
from workbench.core.errors import ConfigError, CoverageError, WorkbenchError


def pruned(build, step):
    x, y = images()
    return Recipe(step).apply(task_of(build, x, y))


def layers(variant):
    return {layer.name: layer for layer in variant.reports[-1].layers}


class Twins(nn.Module):
    """Two residual blocks with inner convolutions of one structure, the second weak, and a hidden Linear far weaker."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.in1, self.out1 = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.in2, self.out2 = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.hidden, self.head = nn.Linear(16, 20), nn.Linear(20, 4)
        with torch.no_grad():
            for layer, scale in ((self.in2, 0.5), (self.out2, 0.5), (self.hidden, 0.01), (self.head, 0.01)):
                layer.weight.mul_(scale)

    def forward(self, image):
        x = F.relu(self.stem(image))
        x = F.relu(x + self.out1(F.relu(self.in1(x))))
        x = F.relu(x + self.out2(F.relu(self.in2(x))))
        return self.head(F.relu(self.hidden(x.mean((2, 3)))))


def test_isomorphic_is_that_of_torch_pruning_called_directly():
    build = seeded(Twins)
    x, _ = images()
    variant = pruned(build, Prune(0.5, scope="isomorphic", round_to=1))
    oracle = build()
    torch_pruning.pruner.BasePruner(
        oracle,
        x[:2],
        torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[oracle.head],
        isomorphic=True,
        global_pruning=True,
    ).step()
    assert [tuple(p.shape) for p in variant.module.parameters()] == [tuple(p.shape) for p in oracle.parameters()]
    assert torch.allclose(variant.predict(x), oracle.eval()(x), atol=1e-6)


def group(root, importance, structure):
    importance = torch.tensor(importance, dtype=torch.float64)
    return Group(root, (root,), tuple((i,) for i in range(len(importance))), importance, 1, structure)


def kept(step, groups):
    whole = {g.root: g.width for g in groups}
    cuts, _ = select_channels(step, groups, step.ratio, own={}, whole=whole)
    return {g.root: g.width for g in groups} | {c.root: whole[c.root] - len(c.channels) for c in cuts}


def test_only_groups_of_one_structure_are_ranked_together():
    groups = [
        group("a", [1.0, 2.0, 3.0, 4.0], "conv"),
        group("b", [5.0, 6.0, 7.0, 8.0], "conv"),
        group("c", [0.1, 0.2, 0.3, 0.4], "linear"),
    ]
    # conv: 1 to 4 leave, but for one channel that always stays; linear: 0.1 and 0.2, however small they are
    assert kept(Prune(0.5, scope="isomorphic"), groups) == {"a": 1, "b": 4, "c": 2}
    assert kept(Prune(0.5, scope="global"), groups) == {"a": 2, "b": 4, "c": 1}
    assert kept(Prune(0.5), groups) == {"a": 2, "b": 2, "c": 2}


def test_heads_are_not_ranked_with_hidden_units():
    variant = pruned(seeded(lambda: Attentive(True)), Prune(0.5, scope="isomorphic", round_to=1))
    assert variant.module.proj.in_features == 8
    assert variant.recipe.label == "prune 0.5 isomorphic"


def test_only_what_is_included_loses_outputs():
    variant = pruned(seeded(Twins), Prune(0.5, include=("in*", "Linear"), exclude=("in2",)))
    module = variant.module
    assert [module.stem.out_channels, module.in1.out_channels, module.in2.out_channels] == [16, 16, 24]
    assert module.hidden.out_features == 8
    found = layers(variant)
    assert found["in2"].reason == "excluded by name"
    assert "not among those to include" in found["stem"].reason
    with pytest.raises(ConfigError, match=r"Prune\.include: no module .* Did you mean 'in1'"):
        pruned(seeded(Twins), Prune(0.5, include=("in_1",)))


def test_a_part_of_what_shares_channels_is_not_enough():
    with pytest.raises(CoverageError, match="shares its channels with"):
        pruned(seeded(Twins), Prune(0.5, include=("out1",)))


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(
        "def wide(name, module):\n    return getattr(module, 'out_channels', 0) == 24 and name.startswith('in')\n\n\n"
        "def no_answer(name, module):\n    return None\n\n\n"
        "def none(name, module):\n    return False\n\n\n"
        "def broken(name, module):\n    return module.no_such_thing\n"
    )
    return path


def test_a_predicate_chooses_modules(rules):
    module = pruned(seeded(Twins), Prune(0.5, include=(f"{rules}:wide",))).module
    assert (module.in1.out_channels, module.in2.out_channels, module.hidden.out_features) == (16, 16, 20)
    module = pruned(seeded(Twins), Prune(0.5, exclude=(f"{rules}:wide",))).module
    assert (module.in1.out_channels, module.in2.out_channels, module.hidden.out_features) == (24, 24, 8)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wider", "Did you mean 'wide'"),
        ("no_answer", "must return True or False, and returned None"),
        ("none", "returned True for no module"),
        ("broken", "failed for 'stem': AttributeError"),
    ],
)
def test_a_predicate_that_cannot_be_used_says_why(rules, name, words):
    with pytest.raises(ConfigError, match=words):
        pruned(seeded(Twins), Prune(0.5, include=(f"{rules}:{name}",)))


def test_a_predicate_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Prune\.exclude: The function file"):
        pruned(seeded(Twins), Prune(0.5, exclude=(f"{tmp_path / 'gone.py'}:wide",)))


def test_a_lambda_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"Prune\.include: '<lambda>' is a function.*JSON.*'file\.py:function'"):
        Prune(0.5, include=(lambda name, module: True,))
    with pytest.raises(ConfigError, match=r"Prune\.exclude"):
        Prune(0.5, exclude=lambda name, module: True)


@given(st.sampled_from(SCHEDULES), st.integers(1, 30))
def test_every_schedule_rises_from_round_to_round_to_the_whole(schedule, rounds):
    due = [scheduled_share(schedule, number / rounds) for number in range(1, rounds + 1)]
    assert due[-1] == pytest.approx(1.0)
    assert all(0 < early < late for early, late in itertools.pairwise(due))


def test_the_one_cycle_curve_is_that_of_its_paper():
    """Formula of arXiv 2107.02086 as fasterai has it, with slope 14 and start 6."""
    for time in (0.1, 0.5, 0.9):
        wanted = (1 + math.exp(-14 + 6)) / (1 + math.exp(-14 * time + 6))
        assert scheduled_share("one_cycle", time) == pytest.approx(wanted)
    steps = [scheduled_share("one_cycle", n / 10) - scheduled_share("one_cycle", (n - 1) / 10) for n in range(1, 11)]
    assert max(steps) == max(steps[3:6]) and steps[9] < 0.01


@pytest.mark.slow
def test_one_cycle_rounds_end_at_the_widths_of_one_shot():
    once = pruned(seeded(Twins), Prune(0.5, round_to=1))
    often = pruned(seeded(Twins), Prune(0.5, round_to=1, rounds=4, schedule="one_cycle"))
    assert [p.shape for p in once.module.parameters()] == [p.shape for p in often.module.parameters()]


@pytest.mark.slow
def test_rewinding_keeps_the_values_from_before_the_step():
    build = seeded(Twins)
    step = Prune(0.5, round_to=1, rounds=3, recover_epochs=2.0, include=("in1",))
    moved, rewound = pruned(build, step), pruned(build, step.replace(rewind=True))
    original = {tuple(row.flatten().tolist()) for row in build().in1.weight}

    def rows(variant):
        return {tuple(row.flatten().tolist()) for row in variant.module.in1.weight}

    assert len(rows(rewound)) == 12 and rows(rewound) <= original
    assert not rows(moved) & original
    assert torch.equal(rewound.module.head.weight, build().head.weight)
    assert rewound.reports[0].epochs_done == moved.reports[0].epochs_done == 4.0
    assert any("rewinding" in note for note in rewound.reports[0].notes)


@pytest.mark.parametrize("options", [{}, {"rounds": 3}, {"recover_epochs": 1.0}])
def test_nothing_to_rewind_is_refused(options):
    with pytest.raises(ConfigError, match="needs training to rewind"):
        Prune(rewind=True, **options)


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_frozen_weights_are_cut_like_others_and_stay_frozen(importance):
    def frozen():
        return Twins().requires_grad_(False)

    cut, free = (pruned(build, Prune(0.5, importance=importance)) for build in (seeded(frozen), seeded(Twins)))
    assert [(x.name, x.touched, x.reason) for x in cut.reports[0].layers] == [
        (x.name, x.touched, x.reason) for x in free.reports[0].layers
    ]
    assert cut.params == free.params
    assert not any(p.requires_grad for p in cut.module.parameters())


def test_a_frozen_model_cannot_be_trained_and_says_so():
    task = task_of(seeded(lambda: Twins().requires_grad_(False)), *images(80))
    with pytest.raises(WorkbenchError, match="distill: the model has no parameter"):
        Recipe(Distill(epochs=1)).apply(task)
