"""Operations and bytes of layers, against sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.compress.variant import Variant
from workbench.measure.profiling.work import LayerWork, layer_work
from workbench.tasks.task import Task

PRODUCTS = ["stem", "inner1", "inner2", "down", "hidden", "head"]


def task_of(module, x, classes=4):
    y = torch.arange(len(x)) % classes
    return Task(
        name="work",
        build=lambda: module,
        train=(x[8:], y[8:]),
        evaluation=(x[:8], y[:8]),
        metric=lambda out, y: 0.5,
        loss=nn.functional.cross_entropy,
    )


def test_the_work_of_a_cnn_is_that_of_a_sum_by_hand(tiny):
    found = {layer.layer: layer for layer in layer_work(tiny)}
    assert list(found) == PRODUCTS
    assert found["stem"] == LayerWork("stem", 2 * 64 * 16 * 9, 16 * 9, 64 * 1 + 64 * 16, (1, 16))
    assert found["inner1"] == LayerWork("inner1", 2 * 64 * 16 * 16 * 9, 16 * 16 * 9, 2 * 64 * 16, (16, 16))
    assert found["down"] == LayerWork("down", 2 * 16 * 32 * 16 * 9, 32 * 16 * 9, 64 * 16 + 16 * 32, (16, 32))
    assert found["head"] == LayerWork("head", 2 * 64 * 4, 64 * 4 + 4, 64 + 4, (64, 4))
    assert sum(layer.flop for layer in found.values()) == 2 * tiny.macs


def test_a_captured_graph_has_the_work_of_what_it_was_captured_from(tiny, tiny_int8):
    ours, theirs = layer_work(tiny), layer_work(tiny_int8)
    assert [layer.layer for layer in theirs] == PRODUCTS
    assert [layer.flop for layer in theirs] == [layer.flop for layer in ours]
    assert [layer.channels for layer in theirs] == [layer.channels for layer in ours]


class Tokens(nn.Module):
    """An encoder layer whose attention multiplies no stored weights, and groups."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.grouped = nn.Conv1d(16, 8, 3, groups=4)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.grouped(self.layer(x).transpose(1, 2)).mean(2))


def test_attention_and_groups_are_counted():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        variant = Variant.original(task_of(Tokens().eval(), torch.randn(300, 6, 16)))
    found = {layer.layer: layer for layer in layer_work(variant)}
    assert sum(layer.flop for layer in found.values()) == 2 * variant.macs
    assert found["layer.self_attn"].flop >= 2 * 2 * 6 * 6 * 16  # scores and values, no stored weights
    assert found["grouped"] == LayerWork("grouped", 2 * 4 * 8 * 4 * 3, 8 * 4 * 3 + 8, 6 * 16 + 4 * 8, (16, 8))


@pytest.mark.parametrize(("batch", "each", "moved"), [(1, 4.0, 480.0), (10, 1.0, 300.0)])
def test_weights_move_once_per_call_and_activations_for_every_sample(batch, each, moved):
    work = LayerWork("fc", flop=200, weights=100, activations=20)
    assert work.bytes_moved(batch, each) == moved
    assert work.intensity(batch, each) == 200 * batch / moved
