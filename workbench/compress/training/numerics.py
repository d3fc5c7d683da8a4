"""Memory layout and number format of training, by default and chosen by timing a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from workbench.core.config import short_id
from workbench.core.machine import this_machine
from workbench.tasks.module import copy_module
from workbench.tasks.trees import Tree, call_model, leaves, tree_map

MIN_STEPS, MIN_SECONDS = 100, 5.0
"""Trainings of fewer steps or with a shorter time limit take the default."""
_SAMPLES, _ROUNDS = 64, 3
_GAIN = 1.1  # speedup over the default that another choice needs, above the noise


def channels_last(tree: Tree) -> Tree:
    """Return images ``[n, c, h, w]`` in the channels-last format, in which convolutions are faster."""
    return tree_map(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, tree)


def set_memory_format(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Set the memory format of the 4-d weights of ``module`` in place."""
    return module.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def has_native_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 instructions."""
    return bool({"avx512_bf16", "amx_bf16"} & set(this_machine().isa))


def number_format(precision: str) -> str:
    """Return the number format of matrix products: for ``"auto"`` bfloat16 if the CPU has instructions for it."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_native_bfloat16() else "float32"


class Forward:
    """Run a module with matrix products in :func:`number_format`, and return its floating outputs as float32.

    Weights, gradients and losses stay float32. ``"auto"`` changes to float32 for good if a layer of the module has no
    bfloat16 kernel.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    def __call__(self, module: nn.Module, batch: Tree) -> Tree:
        """Return the outputs for a batch."""
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=number_format(self.precision) == "bfloat16"):
                return tree_map(to_float32, call_model(module, batch))
        except RuntimeError:
            if self.precision != "auto":
                raise
            self.precision = "float32"
        return tree_map(to_float32, call_model(module, batch))  # an error here is not due to the format


def to_float32(x: torch.Tensor) -> torch.Tensor:
    """Return floating values as float32, others unchanged."""
    return x.float() if x.is_floating_point() else x


@dataclass(frozen=True)
class Numerics:
    """Memory layout of images and number format of matrix products."""

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
    """Return the default: channels_last, and :func:`number_format`."""
    return Numerics(True, number_format(precision))


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
    parts = [type(part).__name__ for part in module.modules()], [list(x.shape) for x in module.parameters()]
    shapes = [f"{x.dtype} {list(x.shape)}" for x in leaves(batch)]
    key = short_id({"module": parts, "batch": shapes, "precision": precision})
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
    formats = list(dict.fromkeys([default.precision, "float32" if precision == "auto" else default.precision]))
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
