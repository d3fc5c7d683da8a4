"""Every layer with a weight is told of by every step, and a layer with two names is one layer."""

from __future__ import annotations

import pytest
import torch
from compress_models import seeded, task_of
from torch import nn

import workbench as wb


class Everything(nn.Module):
    """Words in, classes out: each kind of weighted layer once, and a head that reads the table's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.along = nn.Conv1d(16, 16, 3, padding=1)
        self.back = nn.ConvTranspose1d(16, 16, 3, padding=1)
        self.pair = nn.Bilinear(16, 16, 16)
        self.mix = nn.Linear(16, 16)
        self.again = self.mix
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words):
        x, _ = self.rnn(self.table(words))
        x, _ = self.attention(x, x, x, need_weights=False)
        x = self.back(self.along(x.transpose(1, 2)).relu()).mean(2)
        return self.head(self.again(self.mix(self.pair(x, x)).relu()))


WEIGHTED = ("table", "rnn", "attention", "along", "back", "pair", "mix", "head")


@pytest.fixture(scope="module")
def task():
    words = torch.randint(0, 11, (160, 6), generator=torch.Generator().manual_seed(0))
    return task_of(seeded(Everything), words, words[:, 0])


def layers(task, step):
    return {layer.name: layer for layer in wb.Recipe(step).apply(task).reports[0].layers}


@pytest.mark.parametrize(
    "step",
    [
        wb.Prune(0.25, round_to=1, allow_untouched=True),
        wb.Factorize(ratio=0.3, allow_untouched=True),
        wb.Sparsify(0.5),
        wb.Quantize(),
        wb.Quantize(activations="none"),
        wb.Distill(epochs=0.1, batch_size=32),
    ],
    ids=lambda step: step.label,
)
def test_every_weighted_layer_is_told_of(task, step):
    found = layers(task, step)
    assert {name.split(".")[0] for name in found} >= set(WEIGHTED)
    assert "again" not in found
    assert all(layer.reason for layer in found.values())


def test_a_recurrent_layer_has_the_reason_of_its_own(task):
    for step in (wb.Quantize(), wb.Factorize(ratio=0.3, allow_untouched=True)):
        assert layers(task, step)["rnn"].reason.startswith("recurrent: ")


@pytest.mark.parametrize("given", ["mix", "again"])
def test_a_layer_with_two_names_is_excluded_by_either(task, given):
    variant = wb.Recipe(wb.Quantize(exclude=(given,))).apply(task)
    assert not {layer.name: layer for layer in variant.reports[0].layers}["mix"].touched
    kept = task.model().mix.weight
    stored = [value for value in variant.module.state_dict().values() if value.shape == kept.shape]
    assert any(value.dtype == torch.float32 and torch.equal(value, kept) for value in stored)


@pytest.mark.parametrize("given", ["head", "table"])
def test_a_tied_weight_stays_float_whichever_owner_is_excluded(task, given):
    variant = wb.Recipe(wb.Quantize(exclude=(given,))).apply(task)
    assert not {layer.name: layer for layer in variant.reports[0].layers}["head"].touched
    kept = task.model().table.weight
    assert any(torch.equal(value, kept) for value in variant.module.state_dict().values() if value.shape == kept.shape)


def test_a_tied_head_is_what_is_said_to_be_rounded_not_the_table(task):
    found = layers(task, wb.Quantize())
    assert found["head"].touched
    assert not found["table"].touched and "looked up" in found["table"].reason


class Plain(nn.Module):
    """Four Linears in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 64)
        self.third, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x).relu()).relu()).relu())


@pytest.fixture(scope="module")
def plain():
    inputs = torch.randn(160, 16, generator=torch.Generator().manual_seed(0))
    return task_of(seeded(Plain), inputs, (inputs[:, 0] > 0).long())


@pytest.mark.parametrize(("round_to", "told"), [(32, True), (1, False)])
def test_a_budget_that_was_missed_is_told_of(plain, round_to, told):
    report = wb.Recipe(wb.Prune(0.3, of="macs", round_to=round_to)).apply(plain).reports[0]
    left = f"{report.macs_after / report.macs_before:.0%} of the macs are left instead of 70%"
    assert any(note.startswith(left) for note in report.notes) is told


class Standardized(nn.Conv1d):
    """Computes its weight in forward."""

    def forward(self, x):
        return nn.functional.conv1d(x, self.weight - self.weight.mean((1, 2), keepdim=True), self.bias)


def test_a_weight_which_is_made_anew_in_every_call_is_reported():
    def build():
        return nn.Sequential(Standardized(4, 8, 3), nn.BatchNorm1d(8), nn.Flatten(), nn.Linear(32, 2))

    inputs = torch.randn(160, 4, 6, generator=torch.Generator().manual_seed(0))
    task = task_of(seeded(build), inputs, (inputs[:, 0, 0] > 0).long())
    layers = {layer.name: layer for layer in wb.Recipe(wb.Quantize()).apply(task).reports[0].layers}
    assert layers["3"].touched
    assert layers["conv1d"].reason == "its weight is computed in forward"
