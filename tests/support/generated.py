"""Random small models from blocks, by seed; a failing one is shrunk by leaving blocks out."""

from __future__ import annotations

import collections
import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import workbench as wb

Named = collections.namedtuple("Named", ["logits", "hidden"])
WIDTH, LENGTH = 16, 5


class Gate(nn.Module):
    """Two halves of one layer, one of which gates the other."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Conv2d(WIDTH, 2 * WIDTH, 1) if kind == "image" else nn.Linear(WIDTH, 2 * WIDTH)
        self.dim = 1 if kind == "image" else -1

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.layer(x).chunk(2, self.dim)
        return u * v.sigmoid()


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class SplitCat(nn.Module):
    """Parts of one layer's outputs, in another order, the first one twice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.dim = 1 if kind == "image" else -1
        size = WIDTH + WIDTH // 2
        self.a = nn.Conv2d(WIDTH, WIDTH, 3, padding=1) if kind == "image" else nn.Linear(WIDTH, WIDTH)
        self.b = nn.Conv2d(size, WIDTH, 1) if kind == "image" else nn.Linear(size, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        p, q = torch.split(self.a(x), [WIDTH // 2, WIDTH // 2], self.dim)
        return self.b(torch.cat([q, p, p], self.dim).relu())


class InputToo(nn.Module):
    """Concatenates a layer's outputs with its inputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.dim = 1 if kind == "image" else -1
        self.a = nn.Conv2d(WIDTH, 8, 3, padding=1) if kind == "image" else nn.Linear(WIDTH, 8)
        self.b = nn.Conv2d(WIDTH + 8, WIDTH, 1) if kind == "image" else nn.Linear(WIDTH + 8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.cat([x, self.a(x).relu()], self.dim))


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(self.a(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


class Folded(nn.Module):
    """Folds the batch into the channels, as modulated convolutions do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2.0, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        n, c, a, b = x.shape
        return (x.reshape(1, n * c, a, b) * self.scale.repeat(n).reshape(1, n * c, 1, 1)).reshape(n, c, a, b)


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, a, b = x.shape
        return x.reshape(n, 4, c // 4, a, b).transpose(1, 2).reshape(n, c, a, b)


class Inplace(nn.Module):
    """Writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return F.relu(x, inplace=True)


class Dead(nn.Module):
    """A convolution with dead and tiny filters, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH)
        with torch.no_grad():
            self.conv.weight[3] = 0
            self.conv.weight[7] *= 1e-8
            self.norm.bias[3] = 1.0
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (part.reshape(n, length, 2, -1).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(n, length, WIDTH))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class Shifted(nn.Module):
    """Subtracts a buffer that came in float64, as a scaler's mean does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((WIDTH,), 0.1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean).to(torch.float32)


def _conv(**options: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, **options), nn.BatchNorm2d(WIDTH), nn.ReLU())  # type: ignore[arg-type]


BLOCKS = {
    "image": {
        "conv": _conv,
        "grouped": lambda: _conv(groups=4),
        "depthwise": lambda: nn.Sequential(_conv(groups=WIDTH), nn.Conv2d(WIDTH, WIDTH, 1), nn.SiLU()),
        "residual": lambda: Residual(_conv()),
        "gate": lambda: Gate("image"),
        "split": lambda: SplitCat("image"),
        "input too": lambda: InputToo("image"),
        "excite": Excite,
        "folded": Folded,
        "shuffle": Shuffle,
        "dead": Dead,
        "pool": lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)),
        "transposed": lambda: nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1, groups=2), nn.BatchNorm2d(WIDTH)
        ),
        "group norm": lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.GroupNorm(4, WIDTH), nn.GELU()),
    },
    "sequence": {
        "linear": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()),
        "attention": Attention,
        "recurrent": Recurrent,
        "gate": lambda: Gate("sequence"),
        "split": lambda: SplitCat("sequence"),
        "input too": lambda: InputToo("sequence"),
        "norm": lambda: nn.LayerNorm(WIDTH),
        "shifted": Shifted,
    },
    "vector": {
        "linear": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()),
        "residual": lambda: Residual(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())),
        "gate": lambda: Gate("vector"),
        "split": lambda: SplitCat("vector"),
        "input too": lambda: InputToo("vector"),
        "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
        "shifted": Shifted,
    },
}
POOLS = {"image": ("mean", "amax", "flatten"), "sequence": ("mean", "amax"), "vector": ("none",)}
OUTPUTS = ("tensor", "tuple", "dict", "named")


@dataclass(frozen=True)
class Spec:
    """A model by its parts; equal specs are equal models."""

    seed: int
    kind: str
    blocks: tuple[str, ...]
    pool: str
    outputs: str
    inplace: bool
    two_inputs: bool
    open_length: bool

    @classmethod
    def of(cls, seed: int) -> Spec:
        """Return the spec of a seed."""
        draw = random.Random(seed)
        kind = ("image", "sequence", "vector")[seed % 3]
        blocks = tuple(draw.choice(sorted(BLOCKS[kind])) for _ in range(draw.randint(2, 4)))
        return cls(
            seed,
            kind,
            blocks,
            draw.choice(POOLS[kind]),
            draw.choice(OUTPUTS),
            draw.random() < 0.25,
            draw.random() < 0.25,
            kind == "sequence" and draw.random() < 0.5,
        )

    def smaller(self) -> list[Spec]:
        """Return specs with something left out, the simplest first."""
        found = [replace(self, blocks=self.blocks[:i] + self.blocks[i + 1 :]) for i in range(len(self.blocks))]
        found += [replace(self, outputs="tensor")] if self.outputs != "tensor" else []
        found += [replace(self, inplace=False)] if self.inplace else []
        found += [replace(self, two_inputs=False)] if self.two_inputs else []
        found += [replace(self, open_length=False)] if self.open_length else []
        return found


class Generated(nn.Module):
    """The model of a spec."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        first = {"image": lambda: nn.Conv2d(3, WIDTH, 3, padding=1)}.get(spec.kind, lambda: nn.Linear(6, WIDTH))
        self.write = Inplace() if spec.inplace else nn.Identity()
        self.first = first()
        self.second = first() if spec.two_inputs else None
        self.body = nn.Sequential(*(BLOCKS[spec.kind][name]() for name in spec.blocks))
        self.hidden = nn.Linear(WIDTH * (36 if spec.pool == "flatten" else 1), WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> object:
        """Return the outputs in the spec's structure."""
        h = self.first(self.write(x))
        if self.second is not None:
            h = h + self.second(y)
        h = self.body(h.relu())
        dims = {"image": (2, 3), "sequence": (1,)}.get(self.spec.kind)
        if self.spec.pool == "flatten":
            h = h.flatten(1)
        elif dims is not None:
            h = h.mean(dims) if self.spec.pool == "mean" else h.amax(dims)
        hidden = self.hidden(h).relu()
        logits = self.head(hidden)
        made = {"tensor": logits, "tuple": (logits, hidden), "dict": {"logits": logits, "hidden": hidden}}
        return made.get(self.spec.outputs, Named(logits, hidden))


def logits_of(outputs: object) -> Tensor:
    """Return the logits of outputs in any structure."""
    if isinstance(outputs, dict):
        return outputs["logits"]
    return outputs[0] if isinstance(outputs, tuple) else outputs  # type: ignore[return-value]


def task_of(spec: Spec) -> wb.Task:
    """Return a task with random data, labeled by the model itself, so that its quality is high."""

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            return Generated(spec).eval()

    shape = {"image": (3, 6, 6), "sequence": (LENGTH, 6), "vector": (6,)}[spec.kind]
    generator = torch.Generator().manual_seed(spec.seed)
    data = tuple(torch.randn(300, *shape, generator=generator) for _ in range(2 if spec.two_inputs else 1))
    with torch.no_grad():
        labels = logits_of(build()(*(x.clone() for x in data))).argmax(1)
    inputs = data if spec.two_inputs else data[0]
    held = tuple(x[-60:] + 1e-3 for x in data)
    return wb.Task(
        name=f"generated {spec.seed}",
        build=build,
        train=(inputs, labels),
        evaluation=(held if spec.two_inputs else held[0], labels[-60:]),
        dynamic={name: {1: "length"} for name in ("x", "y")[: len(data)]} if spec.open_length else None,
        metric=lambda out, y: float((logits_of(out).argmax(1) == y).float().mean()),
        loss=lambda out, y: F.cross_entropy(logits_of(out), y),
    )
