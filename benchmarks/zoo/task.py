"""A task around an architecture: made-up inputs of the right kind, and its own answers as targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.tasks.task import Task
from workbench.tasks.trees import Tree, call_model, leaves

KINDS = ("CNN", "transformer", "recurrent", "MLP")
_SAMPLES = {"train": 48, "calibration": 32, "validation": 32, "evaluation": 16}


@dataclass(frozen=True)
class Architecture:
    """One model of the zoo: where it comes from, what is hard in it, how to build it and what it takes.

    ``inputs(n, generator)`` makes ``n`` samples; ``build`` gives a fresh module, random unless torch is seeded.
    """

    name: str
    kind: str
    source: str
    what: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, torch.Generator], Tree]


def task_of(architecture: Architecture) -> Task:
    """Return a task whose targets are the float model's own first output, with noise: there is no real data here.

    The metric is the share of the targets' variance that the outputs explain: nearly 1 for the model itself.
    """
    generator = torch.Generator().manual_seed(7)
    samples = {role: architecture.inputs(count, generator) for role, count in _SAMPLES.items()}
    # Running statistics of batch norm as after training: activations keep their size through the net.
    warm = architecture.inputs(32, torch.Generator().manual_seed(11))

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return settled(architecture.build(), warm)

    model = build()
    with torch.no_grad():
        answers = {role: main_output(call_model(model, inputs)) for role, inputs in samples.items()}
    spread = answers["train"].std().clamp_min(1e-6)
    noisy = {role: a + 0.05 * spread * torch.randn(a.shape, generator=generator) for role, a in answers.items()}

    def loss(outputs: Tree, targets: Tensor) -> Tensor:
        return ((main_output(outputs) - targets) / spread).square().mean()

    def metric(outputs: Tree, targets: Tensor) -> float:
        return 1 - float(loss(outputs, targets) / (targets / spread).var())

    data = {role: (samples[role], noisy[role]) for role in samples}
    return Task(name=architecture.name, build=build, metric=metric, loss=loss, **data)


def main_output(outputs: Tree) -> Tensor:
    """Return the first floating output."""
    return next(leaf for leaf in leaves(outputs) if leaf.is_floating_point())


def settled(module: nn.Module, inputs: Tree) -> nn.Module:
    """Return the module in eval mode, with the running statistics of its batch norms taken from ``inputs``."""
    norms = [layer for layer in module.eval().modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train().momentum = None
    with torch.no_grad():
        call_model(module, inputs)
    for norm in norms:
        norm.eval().momentum = 0.1
    return module


def images(side: int = 32) -> Callable[[int, torch.Generator], Tensor]:
    """Return a maker of smooth noise images ``[n, 3, side, side]``."""

    def make(n: int, generator: torch.Generator) -> Tensor:
        coarse = torch.randn(n, 3, side // 4, side // 4, generator=generator)
        fine = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
        return fine + 0.3 * torch.randn(n, 3, side, side, generator=generator)

    return make


def tokens(n: int, generator: torch.Generator, *, length: int = 16, words: int = 64) -> Tensor:
    """Return ``[n, length]`` token numbers, int64."""
    return torch.randint(0, words, (n, length), generator=generator)


def sentences(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return tokens and their mask, padded at the end, as keywords of ``forward``."""
    ids = tokens(n, generator)
    lengths = torch.randint(8, 17, (n, 1), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(16) < lengths).long()}


def prompts(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return tokens as the only keyword of ``forward``."""
    return {"input_ids": tokens(n, generator)}


def series(length: int, channels: int) -> Callable[[int, torch.Generator], Tensor]:
    """Return a maker of time series ``[n, length, channels]``."""
    return lambda n, generator: torch.randn(n, length, channels, generator=generator).cumsum(1) / length**0.5


def waves(length: int) -> Callable[[int, torch.Generator], Tensor]:
    """Return a maker of sound ``[n, 1, length]``."""

    def make(n: int, generator: torch.Generator) -> Tensor:
        rate = 2 + 20 * torch.rand(n, 1, 1, generator=generator)
        sound = torch.sin(torch.linspace(0, 6.28, length) * rate)
        return sound + 0.2 * torch.randn(n, 1, length, generator=generator)

    return make


def spectrograms(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return sound features ``[n, 32, 64]`` and how many of the 64 places are filled, ``[n]``."""
    return torch.randn(n, 32, 64, generator=generator), torch.randint(32, 65, (n,), generator=generator)


def speech(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a window of sound features ``[n, 8 * 16 * 29]`` and who speaks, ``[n]``."""
    return torch.randn(n, 8 * 16 * 29, generator=generator), torch.randint(0, 4, (n,), generator=generator)
