"""Residual networks written in ways that a search for blocks must see through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """``relu(x + f(x))`` with two convolutions, or ``relu(f(x))`` where the shape changes."""

    def __init__(self, inputs: int = 8, outputs: int = 8, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.same = inputs == outputs and stride == 1

    def branch(self, x: Tensor) -> Tensor:
        """Return what is added to the input."""
        return self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, outputs, h / stride, w / stride]."""
        return F.relu(x + self.branch(x) if self.same else self.branch(x))


class Residual(nn.Module):
    """Two stages of residual blocks: [a, b, c] with 8 channels, then [down, d] with 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.one = nn.Sequential(Block(), Block(), Block())
        self.two = nn.Sequential(Block(8, 16, 2), Block(16, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        return self.head(self.two(self.one(self.stem(image))).mean((2, 3)))


def without_effect() -> nn.Module:
    """Return Residual with a branch at zero in ``one.1``: the block gives back its input, which is not negative."""
    model = Residual()
    nn.init.zeros_(model.one[1].norm2.weight)
    return model


class Tower(nn.Module):
    """A stem, then ``blocks`` in a row by ``call``, then a head: for blocks with signatures of their own."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(8, 4)

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        return self.head(self.call(F.relu(self.stem(image))).mean((2, 3)))


class Branch(nn.Module):
    """A plain branch: two convolutions, no sum."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch's output."""
        return self.body(x)


class ByKeyword(Branch):
    """Takes its image by keyword, and a scale beside it."""

    def forward(self, *, scale: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        """Return the sum."""
        return image + scale * self.body(image)


class KeywordTower(Tower):
    """Calls its blocks by keyword."""

    def __init__(self) -> None:
        super().__init__(*(ByKeyword() for _ in range(3)))

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        for block in self.blocks:
            x = block(scale=torch.ones(1, 8, 1, 1), image=x)
        return x


class OfDicts(Branch):
    """Takes and gives a dict with the image and what it was given beside it."""

    def forward(self, state: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Return the dict with the sum in the image's place."""
        return {
            "mask": state["mask"],
            "image": state["image"] + self.body(state["image"]) * state["mask"],
            "cache": None,
        }


class DictTower(Tower):
    """Blocks that give dicts."""

    def __init__(self) -> None:
        super().__init__(*(OfDicts() for _ in range(3)))

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        state: dict[str, Any] = {"image": x, "mask": torch.ones_like(x[:, :1])}
        for block in self.blocks:
            state = block(state)
        return state["image"]


class NamedTower(Tower):
    """Keeps its blocks in a dict by made-up names, and as attributes of the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.order = [f"stage{number}_unit" for number in range(3)]
        for name in self.order:
            self.add_module(name, Block())

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        for name in self.order:
            x = getattr(self, name)(x)
        return x


class HiddenTower(Tower):
    """Reaches its blocks through a plain list, which no replacement of a submodule changes."""

    def __init__(self) -> None:
        super().__init__(*(Block() for _ in range(3)))
        self.row = list(self.blocks)

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        for block in self.row:
            x = block(x)
        return x


class DropPath(Branch):
    """Leaves its branch out at random in training (stochastic depth), and reads ``self.training``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        if self.training:
            keep = (torch.rand(len(x), 1, 1, 1) < 0.8).to(x.dtype) / 0.8
            return x + self.body(x) * keep
        return x + self.body(x)


class DropPathTower(Tower):
    """Stochastic depth."""

    def __init__(self) -> None:
        super().__init__(*(DropPath() for _ in range(3)))


class WithExtra(Branch):
    """Gives back a number that it computes, beside the sum."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the sum and the branch's energy."""
        y = self.body(x)
        return x + y, y.square().mean((1, 2, 3))


class ExtraTower(Tower):
    """Blocks with a second output of their own."""

    def __init__(self) -> None:
        super().__init__(*(WithExtra() for _ in range(2)))

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        energy = torch.zeros(len(x))
        for block in self.blocks:
            x, more = block(x)
            energy = energy + more
        return x + 0.0 * energy[:, None, None, None]


class SameTower(Tower):
    """One block called three times, and one that is called once."""

    def __init__(self) -> None:
        super().__init__(Block(), Block())

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        for _ in range(3):
            x = self.blocks[0](x)
        return self.blocks[1](x)


class TiedTower(Tower):
    """Three blocks; the first two share the weight of a convolution."""

    def __init__(self) -> None:
        super().__init__(Block(), Block(), Block())
        self.blocks[1].conv1.weight = self.blocks[0].conv1.weight


class ReadTower(Tower):
    """Reads a setting of each block before it calls it."""

    class Set(Branch):
        """A block with a setting."""

        kind: str

        def __init__(self) -> None:
            super().__init__()
            self.kind = "full"

        def forward(self, x: Tensor) -> Tensor:
            """Return the sum."""
            return x + self.body(x)

    def __init__(self) -> None:
        super().__init__(*(self.Set() for _ in range(3)))

    def call(self, x: Tensor) -> Tensor:
        """Return the image after all blocks."""
        for block in self.blocks:
            x = block(x) if block.kind == "full" else x
        return x


class Encoder(nn.Module):
    """Transformer layers of torch over the rows of an image, in a ModuleList."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=norm_first)
            for _ in range(4)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x = self.embed(image[:, 0])
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Plain(nn.Module):
    """A VGG: nothing is added to anything, although shapes stay."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        return self.head(self.features(image).mean((2, 3)))


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, and the input added without an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 8, 1, bias=False),
            nn.BatchNorm2d(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, written into the branch's output."""
        y = self.body(x)
        y += x
        return y


class PreActivation(nn.Module):
    """He et al.'s second residual block: normalization and activation before each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return x + self.conv(F.relu(self.norm(x)))


class NeXt(nn.Module):
    """ConvNeXt's block: a depthwise convolution, LayerNorm and Linears over channels last, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
