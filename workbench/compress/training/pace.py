"""Choose memory layout and number format of a training by timing a few steps on a copy of the module."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from workbench.compress.training.numerics import Forward, channels_last, has_native_bfloat16, set_memory_format
from workbench.core.config import short_id
from workbench.tasks.module import copy_module
from workbench.tasks.trees import Tree, leaves, tree_map

MIN_STEPS = 100
"""Trainings of fewer steps take the default."""
MIN_SECONDS = 5.0
"""Trainings with a shorter time limit take the default."""
_SAMPLES, _ROUNDS = 64, 3
_GAIN = 1.1  # speedup over the default that another choice needs, above the noise


@dataclass(frozen=True)
class Numerics:
    """Memory layout of images and number format of matrix products.

    Examples
    --------
    >>> str(Numerics(True, "bfloat16"))
    'channels_last, bfloat16'
    """

    channels_last: bool
    precision: str

    def __str__(self) -> str:
        return f"{'channels_last' if self.channels_last else 'contiguous'}, {self.precision}"

    def arrange(self, batch: Tree) -> Tree:
        """Return a batch in this layout."""
        return channels_last(batch) if self.channels_last else tree_map(torch.Tensor.contiguous, batch)

    def prepare(self, module: nn.Module) -> nn.Module:
        """Set this layout for a module's weights in place."""
        return set_memory_format(module, torch.channels_last if self.channels_last else torch.contiguous_format)


_chosen: dict[str, Numerics] = {}


def default_numerics(precision: str = "auto") -> Numerics:
    """Return the default: channels_last, and bfloat16 if the CPU has instructions for it."""
    if precision == "auto":
        precision = "bfloat16" if has_native_bfloat16() else "float32"
    return Numerics(True, precision)


def choose_numerics(
    module: nn.Module, batch: Tree, *, precision: str, steps: int, max_seconds: float | None = None
) -> Numerics:
    """Return the fastest layout and format to train ``module``, cached per process.

    Forward and backward passes over (part of) ``batch`` are timed interleaved on copies of the module. Trainings below
    :data:`MIN_STEPS` or :data:`MIN_SECONDS` take :func:`default_numerics`.
    """
    default = default_numerics(precision)
    candidates = _candidates(default, batch, precision)
    short = steps < MIN_STEPS or (max_seconds is not None and max_seconds < MIN_SECONDS)
    if len(candidates) == 1 or short:
        return default
    key = short_id({"module": _structure(module), "batch": _shapes(batch), "precision": precision})
    if key not in _chosen:
        part = tree_map(lambda x: x[:_SAMPLES], batch)
        seconds = {numerics: _timed(module, part, numerics) for numerics in candidates}
        _chosen[key] = fastest(_rounds(seconds), default)
    return _chosen[key]


def fastest(seconds: dict[Numerics, float], default: Numerics) -> Numerics:
    """Return the choice with the shortest time, or the default if it takes at most 1.1 times as long."""
    best = min(seconds, key=lambda numerics: seconds[numerics], default=default)
    near = default in seconds and seconds[default] <= _GAIN * seconds[best]
    return default if near else best


def _candidates(default: Numerics, batch: Tree, precision: str) -> list[Numerics]:
    layouts = [True, False] if any(x.ndim == 4 for x in leaves(batch)) else [True]
    formats = (
        ["bfloat16", "float32"] if precision == "auto" and default.precision == "bfloat16" else [default.precision]
    )
    return [Numerics(layout, name) for name in formats for layout in layouts]


def _rounds(steps: dict[Numerics, Callable[[], float]]) -> dict[Numerics, float]:
    """Time the choices interleaved; return the shortest time of each after the first round, without those that fail."""
    seconds: dict[Numerics, float] = {}
    working = dict(steps)
    with torch.random.fork_rng(devices=[]):
        for turn in range(_ROUNDS):
            for numerics, step in list(working.items()):
                try:
                    took = step()
                except RuntimeError:  # no kernel for this format
                    del working[numerics]
                    seconds.pop(numerics, None)
                    continue
                if turn:
                    seconds[numerics] = min(took, seconds.get(numerics, took))
    return seconds


def _timed(module: nn.Module, batch: Tree, numerics: Numerics) -> Callable[[], float]:
    """Return a function that runs the passes of one training step on a copy and returns the seconds."""
    own, inputs = numerics.prepare(copy_module(module)), numerics.arrange(batch)
    forward = Forward(numerics.precision)

    def step() -> float:
        started = time.perf_counter()
        outputs = [x for x in leaves(forward(own, inputs)) if x.is_floating_point() and x.requires_grad]
        torch.stack([x.square().mean() for x in outputs]).sum().backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - started

    return step


def _structure(module: nn.Module) -> list[str]:
    kinds = [type(part).__name__ for part in module.modules()]
    return kinds + [str(list(x.shape)) for x in module.parameters()]


def _shapes(batch: Tree) -> list[str]:
    return [f"{x.dtype} {list(x.shape)}" for x in leaves(batch)]
