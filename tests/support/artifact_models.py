"""A small task and modules whose structure was changed as the compression steps do it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.compress.model_ops import count_params
from workbench.compress.recipe import Recipe
from workbench.compress.variant import Variant
from workbench.tasks.task import Task


class Net(nn.Module):
    """A residual block, attention over the pixels, and a head; one tensor is shared, one buffer is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.hidden = nn.Linear(16, 32)
        self.head = nn.Linear(32, 4)
        self.shared = nn.Linear(16, 32)
        self.shared.weight = self.hidden.weight
        self.register_buffer("shift", torch.linspace(-1, 1, 16), persistent=False)
        self.heads = 4

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.stem(image)).relu()
        x = (x + self.inner(x)).flatten(2).transpose(1, 2)
        x = (x + self.attention(x, x, x, need_weights=False)[0]).mean(1)
        x = x + self.shift[: x.shape[1]]
        return self.head(self.hidden(x).relu() + self.shared(x))


def build() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = Net()
        model.norm.running_mean.uniform_(-1, 1)
    return model.eval()


def make_task(build=build, shape=(1, 6, 6), **more) -> Task:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, *shape, generator=generator)
    y = torch.randint(0, 4, (600,), generator=generator)
    return Task(
        name="small",
        build=build,
        train=(x, y),
        evaluation=(x[:64] + 0.01, y[:64]),
        metric=lambda out, y: float((out.argmax(1) == y).float().mean()),
        loss=F.cross_entropy,
        **more,
    )


def make_variant(module: nn.Module, task: Task | None = None, *, quantized: bool = False) -> Variant:
    return Variant(module, Recipe(), (), task or make_task(), quantized, count_params(module), 1000, 0.5)


def pruned() -> nn.Module:
    import torch_pruning as tp

    model = build()
    model.shared = nn.Linear(16, 32)  # torch-pruning does not know shared weights
    pruner = tp.pruner.BasePruner(
        model,
        torch.randn(1, 1, 6, 6),
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[model.head, model.attention, model.stem, model.inner],
        round_to=4,
    )
    pruner.step()
    return model.eval()


def factorized() -> nn.Module:
    """Net with a Linear and a Conv2d each replaced by two smaller ones."""
    model = build()
    u, s, v = torch.linalg.svd(model.head.weight.detach(), full_matrices=False)
    first, second = nn.Linear(32, 3, bias=False), nn.Linear(3, 4)
    first.weight.data, second.weight.data = v[:3].clone(), (u[:, :3] * s[:3]).clone()
    second.bias.data = model.head.bias.detach().clone()
    model.head = nn.Sequential(first, second)
    model.inner = nn.Sequential(nn.Conv2d(16, 5, 3, padding=1, bias=False), nn.Conv2d(5, 16, 1))
    return model.eval()


def forge(folder: Path, **values) -> None:
    """Change the manifest as somebody would who can make its digest again."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **values}
    manifest.pop("digest")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**manifest, "digest": hashlib.sha256(text.encode()).hexdigest()}))


def forge_file(folder: Path, name: str, content: bytes) -> None:
    """Change a file and everything that vouches for it."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    forge(folder, files=files)
