"""Models on which torch-pruning or a trial of cuts could go wrong: what is cut is right, what is not has a reason."""

from __future__ import annotations

import pytest
import torch
from compress_models import images, seeded, task_of
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.compress import Prune, Recipe
from workbench.core.errors import ConfigError


class ChannelsLast(nn.Module):
    """A normalized convolution, and one whose channels a reshape mixes with the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.second, self.head = nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.Linear(256, 4)
        nn.init.uniform_(self.norm.weight)
        nn.init.uniform_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return self.head(x.permute(0, 2, 3, 1).reshape(len(x), -1))


def test_a_group_norm_does_not_hide_a_cut_that_is_wrong():
    task = task_of(seeded(ChannelsLast), *images())
    layers = {layer.name: layer.reason for layer in Recipe(Prune(0.25, round_to=1)).apply(task).reports[0].layers}
    assert layers["first"] == "outputs 16 -> 12"
    assert "mixes its channels" in layers["second"] and "inputs 16 -> 12" in layers["second"]
    assert "inputs" not in layers["head"]


def test_a_cut_under_a_group_norm_is_the_model_without_these_channels():
    task = task_of(seeded(ChannelsLast), *images())
    whole, cut = task.model(), Recipe(Prune(0.25, round_to=1)).apply(task).module
    kept = [i for i, b in enumerate(whole.first.bias) if bool((cut.first.bias == b).any())]
    assert len(kept) == 12
    x = task.examples(4)
    with torch.no_grad():
        hidden = F.group_norm(whole.first(x)[:, kept], 4, whole.norm.weight[kept], whole.norm.bias[kept])
        hidden = F.conv2d(F.relu(hidden), whole.second.weight[:, kept], whole.second.bias, stride=2, padding=1)
        want = whole.head(F.relu(hidden).permute(0, 2, 3, 1).reshape(4, -1))
        torch.testing.assert_close(cut(x), want)


class Recurrent(nn.Module):
    """A residual block around two Linears behind a recurrent layer: torch-pruning runs out of channels inside it."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(12, 32), kind(32, 32, batch_first=True)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, words: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x, _ = self.rnn(self.table(words))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_residual_around_a_recurrent_layer_keeps_its_stream_and_cuts_the_rest(kind):
    words = torch.randint(0, 11, (80, 6), generator=torch.Generator().manual_seed(0))
    task = task_of(seeded(lambda: Recurrent(kind)), words, words[:, 0] % 4)
    layers = {layer.name: layer for layer in Recipe(Prune(0.5)).apply(task).reports[0].layers}
    assert layers["up"].reason == "outputs 64 -> 32"
    assert layers["down"].reason.startswith("inputs 64 -> 32; outputs kept: ")
    assert not layers["rnn"].touched and "recurrent" in layers["rnn"].reason


def grouped():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


@pytest.mark.parametrize("penalty", ["group_norm", "growing"])
def test_grouped_convolutions_are_cut_but_not_pulled_at(penalty):
    step = Prune(0.5, round_to=1, sparse_epochs=1, sparse_by=penalty)
    variant = Recipe(step).apply(task_of(seeded(grouped), *images()))
    assert {layer.name for layer in variant.reports[0].layers if layer.touched} >= {"0", "2", "4", "6"}


def test_groups_that_keep_all_channels_say_why():
    variant = Recipe(Prune(0.1, round_to=1, allow_untouched=True)).apply(task_of(seeded(grouped), *images()))
    reasons = {layer.name: layer.reason for layer in variant.reports[0].layers}
    assert "step of 4 channels" in reasons["2"]


@pytest.mark.parametrize("cost", [None, float("nan"), 0.0, "fast"])
def test_a_cost_that_is_no_number_above_0_is_refused(cost):
    task = task_of(seeded(grouped), *images())
    with pytest.raises(ConfigError, match="cost must return a number above 0, and returned"):
        Recipe(Prune(0.5, of="latency")).apply(task, cost=lambda variant: cost)
