"""Counting parameters and multiply-accumulates, against figures worked out by hand."""

from __future__ import annotations

import torch
from compress_models import TinyViT, images, seeded, task_of, two_heads_task
from torch import nn

from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.variant import Variant


def test_macs_of_convolutions_and_linears():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 8*8 places * 8 * 3*9
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),  # 4*4 places * 8 * 9
        nn.Flatten(),
        nn.Linear(128, 10, bias=False),  # 1280
    ).eval()
    x = torch.randn(5, 3, 8, 8)
    assert count_macs(net, x) == 64 * 8 * 27 + 16 * 8 * 9 + 1280
    assert count_params(net) == (8 * 27 + 8) + 16 + (8 * 9 + 8) + 1280


def test_macs_of_attention_are_counted_with_and_without_the_fused_path():
    net = seeded(TinyViT)()
    tokens, width = 4, 16
    linears = tokens * (width * 16 + width * 3 * width + width * width + 2 * width * 32)
    attention = 2 * tokens * tokens * width
    assert count_macs(net, torch.randn(2, 1, 8, 8)) == linears + attention + width * 4
    layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True).eval()
    with torch.no_grad():
        counted = count_macs(layer, torch.randn(3, tokens, width))
    assert counted == tokens * (4 * width * width + 2 * width * 32) + attention
    fast = torch.backends.mha.get_fastpath_enabled()
    assert count_macs(layer.requires_grad_(False), torch.randn(3, tokens, width)) == counted
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_the_original_is_a_variant_without_steps(tiny_task):
    variant = Variant.original(tiny_task)
    x = tiny_task.examples(3)
    assert torch.equal(variant.predict(x), tiny_task.model()(x))
    assert not variant.predict(x).requires_grad
    assert (variant.reports, variant.quantized, variant.recipe.steps) == ((), False, ())
    assert variant.quality == tiny_task.evaluate(tiny_task.model(), split="validation")
    assert "float" in repr(variant)


def test_dicts_in_and_out():
    outputs = Variant.original(two_heads_task()).predict(two_heads_task().examples(2))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {"logits": (2, 4), "maps": (2, 2, 4, 4)}


def test_a_variant_keeps_the_mode_for_inference():
    x, y = images()
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4)))
    variant = Variant.original(task_of(net, x, y))
    assert not any(m.training for m in variant.module.modules())


def test_recurrent_layers_are_counted_step_by_step(recwarn):
    x = torch.randn(2, 16, 48)
    assert count_macs(nn.LSTM(48, 32, batch_first=True), x) == 16 * 4 * 32 * (48 + 32)
    both_ways = nn.GRU(48, 32, num_layers=2, batch_first=True, bidirectional=True)
    assert count_macs(both_ways, x) == 16 * 3 * 32 * 2 * ((48 + 32) + (64 + 32))
    assert torch.backends.mkldnn.enabled
    assert not recwarn.list
