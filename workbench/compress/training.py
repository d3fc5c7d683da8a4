"""The one training loop: a schedule that fits a wall-clock limit, and settings that suit the kind of model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.core.machine import this_machine
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.split import Split
from workbench.tasks.trees import Tree, call_model, tree_map

BatchLoss = Callable[[Tree, Tree, Tree, torch.Tensor], torch.Tensor]
"""``loss(outputs, inputs, targets, indices)``: inputs as the model saw them, indices into the training split."""

_WARMUP = 0.05
_REPORT_EVERY_S = 0.25


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train."""

    epochs: float
    batch_size: int
    learning_rate: float | None
    max_seconds: float | None
    rate_scale: float = 1.0
    transformer: bool = False


@dataclass(frozen=True)
class Trained:
    """What training did."""

    epochs: float
    steps: int
    notes: tuple[str, ...]


def is_normalised_by_layer(module: nn.Module) -> bool:
    """Return whether the model is of the transformer kind: LayerNorm or RMSNorm, and no batch norm."""
    kinds = [type(m) for m in module.modules()]
    batch = any(issubclass(k, nn.modules.batchnorm._BatchNorm) for k in kinds)
    return not batch and any(issubclass(k, nn.LayerNorm | nn.RMSNorm) for k in kinds)


def make_optimizer(module: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Return AdamW for transformers and SGD with Nesterov momentum for the rest; no decay on vectors."""
    named = [p for p in module.parameters() if p.requires_grad]
    matrices, vectors = [p for p in named if p.ndim > 1], [p for p in named if p.ndim <= 1]
    if plan.transformer:
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=plan.learning_rate or 1e-3 * plan.rate_scale)
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}]
    rate = plan.learning_rate or 0.05 * plan.rate_scale
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def rate_factor(share: float) -> float:
    """Return the learning rate's factor at ``share`` of the training done: a short warm-up, then a cosine to 0."""
    if share < _WARMUP:
        return (share + 0.01) / (_WARMUP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - _WARMUP) / (1 - _WARMUP))))


def channels_last(tree: Tree) -> Tree:
    """Return images ``[n, c, h, w]`` with the channels innermost in memory: convolutions run faster so."""
    return tree_map(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, tree)


def fast_products() -> AbstractContextManager[Any]:
    """Return a context in which matrix products use bfloat16, where the CPU has instructions for it.

    Weights, gradients and losses stay float32. Where it is emulated it would be slower, so it is off there.
    """
    native = {"avx512_bf16", "amx_bf16"} & set(this_machine().isa)
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(native))


def set_layout(module: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Put the 4-d weights of ``module`` into a memory layout, in place."""
    return module.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def train(
    module: nn.Module,
    data: Split,
    loss: BatchLoss,
    plan: Plan,
    *,
    stage: str,
    progress: ProgressCallback,
    seed: int,
    augment: Callable[[Tree, torch.Generator], Tree] | None = None,
    on_share: Callable[[float], None] | None = None,
) -> Trained:
    """Train ``module`` in place and leave it in the mode it was given in.

    The learning rate follows the larger of the share of steps and the share of ``max_seconds``, so that a training
    that is cut short still ends with a small one. ``on_share`` is told that share before every step.
    """
    optimizer = make_optimizer(module, plan)
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for p in module.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    per_epoch = max(1, len(data) // min(plan.batch_size, len(data)))
    total = max(1, round(plan.epochs * per_epoch))
    inputs, targets = channels_last(data.inputs), data.targets
    started = reported = time.perf_counter()
    done, share, mean_loss = 0, 0.0, math.nan
    for indices in _batches(len(data), plan.batch_size, generator):
        elapsed = time.perf_counter() - started
        share = max(done / total, elapsed / plan.max_seconds if plan.max_seconds else 0.0)
        if done >= total or (share >= 1.0 and done > 0):
            break
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_factor(share)
        if on_share is not None:
            on_share(share)
        batch, wanted = (tree_map(lambda x: x[indices], tree) for tree in (inputs, targets))  # noqa: B023
        if augment is not None:
            batch = channels_last(augment(batch, generator))
        with fast_products():
            outputs = call_model(module, batch)
        value = loss(tree_map(in_full, outputs), batch, wanted, indices)
        _step(optimizer, parameters, value)
        done += 1
        mean_loss = _running(mean_loss, float(value.detach()), stage)
        if done == 1 or time.perf_counter() - reported > _REPORT_EVERY_S:
            reported = time.perf_counter()
            progress(_event(stage, done, per_epoch, total, share, mean_loss))
    progress(_event(stage, done, per_epoch, total, 1.0, mean_loss))
    return Trained(done / per_epoch, done, _cut(done, total, per_epoch, plan))


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], value: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()


def in_full(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.is_floating_point() else x


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield shuffled index batches without end; a rest smaller than a batch waits for the next shuffle."""
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def _running(mean: float, value: float, stage: str) -> float:
    if not math.isfinite(value):
        raise WorkbenchError(
            f"{stage}: the training loss became {value}. Lower learning_rate, or check the data and the loss."
        )
    return value if math.isnan(mean) else 0.95 * mean + 0.05 * value


def _event(stage: str, done: int, per_epoch: int, total: int, share: float, loss: float) -> Progress:
    epoch = done / per_epoch
    message = f"epoch {epoch:.1f} of {total / per_epoch:g}, loss {loss:.4f}"
    return Progress(stage, share, 1.0, message, {"loss": loss, "epoch": epoch, "step": done})


def _cut(done: int, total: int, per_epoch: int, plan: Plan) -> tuple[str, ...]:
    if done >= total or plan.max_seconds is None:
        return ()
    return (
        f"Training was cut by max_seconds={plan.max_seconds:g}: {done / per_epoch:.1f} of {plan.epochs:g} epochs; "
        "the learning rate was annealed over that time.",
    )
