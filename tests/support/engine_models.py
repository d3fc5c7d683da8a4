"""Variants for engine tests: real tasks around small modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.compress.model_ops import count_params
from workbench.compress.recipe import Recipe
from workbench.compress.variant import Variant
from workbench.export.io import input_leaves
from workbench.tasks.task import Task


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))


class Words(nn.Module):
    """int64 tokens and a float weight in; a dict with a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor, weight: Tensor) -> dict[str, object]:
        pooled = self.table(tokens).mean(1) * weight[:, None]
        return {"logits": self.head(pooled), "more": (pooled, pooled.argmax(1))}


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.view(4, 6) if x.shape[0] == 4 else x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if self.scale.sum() > 0 else -x


class Pair(nn.Module):
    """Two tensors in, a tuple of two out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(left + right).relu()
        return self.second(hidden), hidden


class Signed(nn.Module):
    """Branches on the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else -2 * self.linear(x)


class Sized(nn.Module):
    """Computes with the batch size as a plain number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        size = float(int(x.shape[0]))
        return self.linear(x) + size - size


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean(1)


class Same(nn.Module):
    """Gives its input back: the same memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def make_variant(cls: type[nn.Module], inputs: object) -> Variant:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            return cls().eval()

    first = input_leaves(inputs)[0]
    targets = torch.zeros(len(first), dtype=torch.long)
    task = Task(
        name=cls.__name__.lower(),
        build=build,
        train=(inputs, targets),
        evaluation=(inputs, targets),
        metric=lambda outputs, targets: 0.0,
        loss=lambda outputs, targets: torch.zeros(()),
        calibration=(inputs, targets),
        validation=(inputs, targets),
    )
    module = build()
    return Variant(module, Recipe(), (), task, False, count_params(module), 1, 0.0)


def images_variant() -> Variant:
    return make_variant(Images, torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


def words_variant() -> Variant:
    generator = torch.Generator().manual_seed(0)
    return make_variant(
        Words,
        {"tokens": torch.randint(0, 30, (20, 7), generator=generator), "weight": torch.rand(20, generator=generator)},
    )


class Wide(nn.Module):
    """Outputs as large as the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu()


def wide_variant() -> Variant:
    return make_variant(Wide, torch.randn(64, 256, generator=torch.Generator().manual_seed(0)))
