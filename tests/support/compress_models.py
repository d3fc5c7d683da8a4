"""Tiny modules and tasks that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.tasks.task import Task


def task_of(build: Callable[[], nn.Module], inputs: Any, targets: Tensor, **options: Any) -> Task:
    """Return a task around a module; evaluation inputs differ from the training ones."""
    settings: dict[str, Any] = {
        "metric": lambda out, y: float((out.argmax(1) == y).float().mean()),
        "loss": F.cross_entropy,
    } | options
    if isinstance(inputs, dict):
        moved: Any = {key: value.flip(0) + 1 for key, value in inputs.items()}
    else:
        moved = inputs.flip(0) + 1
    return Task(name="unit", build=build, train=(inputs, targets), evaluation=(moved, targets.flip(0)), **settings)


def images(n: int = 64, channels: int = 1, side: int = 8) -> tuple[Tensor, Tensor]:
    """Return noise images [n, channels, side, side] and labels [n] of four classes."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 4, (n,), generator=generator)
    return torch.randn(n, channels, side, side, generator=generator) + labels[:, None, None, None] * 0.3, labels


def seeded(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return a build function whose module has the same weights on every call."""

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            module = factory()
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_(0, 0.1)
                    layer.running_var.uniform_(0.5, 1.5)
        return module.eval()

    return build


class OptionA(nn.Module):
    """A residual block whose shortcut pads a fixed number of channels, as CIFAR ResNets do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x = F.relu(self.stem(image))
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        y = y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return self.head(F.relu(y).mean((2, 3)))


class TinyViT(nn.Module):
    """One pre-norm block with fused attention on 4x4 patches."""

    def __init__(self, heads: int = 2, width: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, width) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 32), nn.Linear(32, width)
        self.head = nn.Linear(width, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x = self.embed(image).flatten(2).transpose(1, 2) + self.position
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.proj(y)
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


class Attentive(nn.Module):
    """Attention whose forward takes as many heads of width 4 as the Linear makes; fused or three Linears."""

    def __init__(self, fused: bool, heads: int = 4) -> None:
        super().__init__()
        self.head_dim, self.fused = 4, fused
        width = 4 * heads
        self.embed = nn.Conv2d(1, width, 4, stride=4)
        self.norm = nn.LayerNorm(width)
        if fused:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x = self.embed(image).flatten(2).transpose(1, 2)
        y = self.norm(x)
        parts = self.qkv(y).chunk(3, -1) if self.fused else (self.q(y), self.k(y), self.v(y))
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class TwoHeads(nn.Module):
    """Two inputs by keyword, a dict of two outputs: logits [n, 4] and a map [n, 2, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.side = nn.Linear(3, 16)
        self.logits = nn.Linear(16, 4)
        self.maps = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor, extra: Tensor) -> dict[str, Tensor]:
        """Return both outputs."""
        x = F.relu(self.body(image))
        return {"logits": self.logits(x.mean((2, 3)) + self.side(extra)), "maps": self.maps(x)}


def two_heads_task() -> Task:
    """Return a task with a dict in and a dict out."""
    x, y = images()
    extra = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(1))
    return task_of(
        seeded(TwoHeads),
        {"image": x, "extra": extra},
        y,
        metric=lambda out, y: float((out["logits"].argmax(1) == y).float().mean()),
        loss=lambda out, y: F.cross_entropy(out["logits"], y) + 0 * out["maps"].mean(),
    )


def small_net(dropout: float = 0.0, width: int = 8) -> nn.Module:
    """Return two convolutions with batch norm and a head: logits [n, 4] of images [n, 1, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * width, 4),
    )


def small_task(dropout: float = 0.0) -> Task:
    """Return a task of 96 images for :func:`small_net`, a training of which takes a moment."""
    x, y = images(96)
    return task_of(seeded(lambda: small_net(dropout)), x, y)


def plain_net():
    """Return a CNN of two convolutions and two Linears on 1x8x8 images, without residuals or norms."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 32),
        nn.Linear(32, 4),
    )
