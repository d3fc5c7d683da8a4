"""Modules with the shapes of inputs and outputs, and the faults, that exporting must deal with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoInputs(nn.Module):
    """An image and int64 tokens in; a dict with a nested tuple and a None out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.tokens = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 5)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, image: Tensor, tokens: Tensor) -> dict[str, object]:
        features = self.norm(self.conv(image)).relu().mean((2, 3)) + self.tokens(tokens).mean(1)
        return {"logits": self.head(features), "nothing": None, "features": (features, [features.argmax(1)])}


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return x * 2


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(4, -1)


class Chance(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class NoTranslation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x @ x.transpose(1, 2)).real


class ScalarOutput(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x, "loss": x.mean()}


class NumberOutput(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"logits": x, "count": 3}


class Clashing(nn.Module):
    """Its input is called like its weight, its output like a value inside the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, weight: Tensor) -> dict[str, Tensor]:
        return {"mul": weight * self.weight + 1, "weight": weight * 2}
