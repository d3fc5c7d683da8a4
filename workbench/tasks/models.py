"""The two small networks of the built-in tasks."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Residual CNN for gray 32x32 images: a stem, four stages of halving resolution, global pooling, one Linear.

    ``widths`` are the channels and ``depths`` the blocks of each stage.
    """

    def __init__(
        self, widths: tuple[int, ...] = (16, 32, 64, 96), depths: tuple[int, ...] = (1, 2, 2, 1), classes: int = 10
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        before = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                blocks.append(ResidualBlock(before, width, 2 if stage > 0 and block == 0 else 1))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(before, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``[n, classes]`` of images ``[n, 1, 32, 32]``."""
        x = functional.relu(self.norm(self.stem(image)))
        return cast(torch.Tensor, self.head(torch.flatten(self.pool(self.blocks(x)), 1)))


class Attention(nn.Module):
    """Multi-head self-attention with one Linear for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[n, tokens, width]`` to the same shape."""
        # the head count follows from the Linear, so that pruned heads need no other edit
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, -1, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        return cast(torch.Tensor, self.proj(y.transpose(1, 2).flatten(2)))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each with a residual add."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[n, tokens, width]`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + cast(torch.Tensor, self.fc2(functional.gelu(self.fc1(self.norm2(x)))))


class DigitsViT(nn.Module):
    """Small vision transformer for gray 32x32 images: a token for 4x4 pixels, learned positions, mean over tokens.

    Two strided convolutions make the tokens instead of one linear patch embedding: from a few thousand images a
    transformer does not learn what an edge is (Xiao et al. 2021, Early Convolutions Help Transformers See Better).
    ``width`` is the size of a token, a multiple of ``heads``; ``depth`` counts blocks; ``hidden`` is the MLP's width.
    """

    def __init__(self, width: int = 96, depth: int = 4, heads: int = 4, hidden: int = 256, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``[n, classes]`` of images ``[n, 1, 32, 32]``."""
        x = self.embed(image).flatten(2).transpose(1, 2) + self.position
        return cast(torch.Tensor, self.head(self.norm(self.blocks(x)).mean(1)))
