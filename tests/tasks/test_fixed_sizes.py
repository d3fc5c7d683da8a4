"""Graphs that were captured with fixed sizes refuse others in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.core.errors import InputError
from workbench.tasks.module import require_sizes


def test_other_sizes_are_refused_by_place_and_by_name():
    class Two(nn.Module):
        def forward(self, a, b):
            return a.sum() + b.sum()

    placed = require_sizes(Two(), (), [(3,), (None, 2)])
    assert placed(torch.ones(5, 3), torch.ones(5, 9, 2)) == 105
    with pytest.raises(InputError, match=r"input 1 must have the shape \['n', 'any', 2\], got \[5, 9, 3\]"):
        placed(torch.ones(5, 3), torch.ones(5, 9, 3))
    named = require_sizes(Two(), ("b", "a"), [(2,), (3,)])
    assert named(a=torch.ones(1, 3), b=torch.ones(1, 2)) == 5
    with pytest.raises(InputError, match="a must have the shape"):
        named(b=torch.ones(1, 2), a=torch.ones(1, 4))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.slow
def test_an_int8_variant_keeps_open_lengths_or_refuses_others(recurrent, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
            self.gru = nn.GRU(16, 16, batch_first=True) if recurrent else None

        def forward(self, x):
            h = self.a(x).relu()
            return self.head((h if self.gru is None else self.gru(h)[0]).mean(1))

    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Net().eval()

    x = torch.randn(300, 5, 6, generator=torch.Generator().manual_seed(0))
    task = wb.Task(
        name="lengths",
        build=build,
        train=(x, torch.arange(300) % 3),
        evaluation=(x[:40] + 0.1, torch.arange(40) % 3),
        metric=lambda out, y: float((out.argmax(1) == y).float().mean()),
        loss=nn.functional.cross_entropy,
        dynamic={"x": {1: "length"}},
    )
    variant = wb.Recipe(wb.Quantize()).apply(task)
    again = wb.load_variant(variant.save(tmp_path / "a").folder, task)
    for one in (variant, again):
        assert one.predict(x[:4]).shape == (4, 3)
        if recurrent:
            with pytest.raises(InputError, match="captured with these sizes"):
                one.predict(torch.cat([x[:4], x[:4]], 1))
        else:
            assert one.predict(torch.cat([x[:4], x[:4]], 1)).shape == (4, 3)
