"""Weights tied between layers: a cut keeps them one tensor, or is none."""

from __future__ import annotations

import pytest
import torch
from compress_models import seeded, task_of
from torch import Tensor, nn

from workbench.compress import Prune, Recipe

WORDS, WIDTH = 40, 16


class TiedHead(nn.Module):
    """A language model in small: the head multiplies by the embedding's own table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        """Return logits [n, 40] of [n, 5] words."""
        x = self.embed(words).mean(1)
        return self.head(x + self.down(torch.relu(self.up(x))))


def tied_task(model=TiedHead):
    words = torch.randint(0, WORDS - 1, (64, 5), generator=torch.Generator().manual_seed(0))
    return task_of(seeded(model), words, torch.arange(64) % WORDS)


class Apart(TiedHead):
    """Tied like :class:`TiedHead`, but no sum holds the widths of table and head together."""

    def forward(self, words: Tensor) -> Tensor:
        """Return logits [n, 40] of [n, 5] words."""
        return self.head(self.down(torch.relu(self.up(self.embed(words).mean(1)))))


class TwoTied(nn.Module):
    """Two Linears in a row with one weight: rows of the first are columns of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, 4] of [n, 16]."""
        return self.head(torch.relu(self.second(torch.relu(self.first(torch.relu(self.stem(x)))))))


@pytest.mark.parametrize("options", [{}, {"rounds": 2, "recover_epochs": 1.0}, {"of": "params"}])
def test_a_table_and_a_head_that_are_cut_alike_stay_tied(options):
    variant = Recipe(Prune(0.5, round_to=1, **options)).apply(tied_task())
    module, (report,) = variant.module, variant.reports
    assert module.head.weight is module.embed.weight
    width, inner = module.embed.weight.shape[1], module.up.out_features
    assert width < WIDTH
    assert variant.params == WORDS * width + inner * (width + 1) + width * (inner + 1)
    assert any("still one tensor: embed and head" in note for note in report.notes)
    table = next(layer for layer in report.layers if layer.name == "embed")
    assert table.touched and table.reason.startswith(f"outputs {WIDTH} -> {width}")


def test_a_cut_that_would_untie_a_head_is_left_alone_and_said():
    variant = Recipe(Prune(0.5)).apply(tied_task(Apart))
    module, (report,) = variant.module, variant.reports
    assert module.head.weight is module.embed.weight
    assert (module.up.out_features, module.down.out_features) == (16, WIDTH)
    assert variant.params == WORDS * WIDTH + 16 * (WIDTH + 1) + WIDTH * (16 + 1) < report.params_before
    down = next(layer for layer in report.layers if layer.name == "down")
    assert "the tied weight of embed and head" in down.reason
    assert any("down" in note and f"{variant.params:,} parameters are left" in note for note in report.notes)


def test_layers_in_a_row_with_one_weight_keep_it():
    x = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0))
    step = Prune(0.5, allow_untouched=True)
    variant = Recipe(step).apply(task_of(seeded(TwoTied), x, torch.arange(64) % 4))
    assert variant.module.first.weight is variant.module.second.weight
    assert variant.params <= variant.reports[0].params_before
