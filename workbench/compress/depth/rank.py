"""Rank blocks by the loss of the outputs per saving, and remove them one by one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workbench.compress.depth.blocks import Block, difference, put, replaced
from workbench.compress.graph.outputs import relative_squared_error
from workbench.compress.handlers import Work
from workbench.compress.model_ops import count_macs, predict_with, restoring
from workbench.compress.steps import PruneDepth
from workbench.compress.training.losses import LONE, class_outputs, leaf_loss
from workbench.core.errors import first_line
from workbench.core.progress import Progress
from workbench.tasks.module import copy_module
from workbench.tasks.trees import Tree, leaves, named_leaves

# Lower bounds for the ranking: blocks without loss are ranked by saving, and a saving below the noise is not 0.
_LEAST_LOSS = 1e-9
_LEAST_SAVING = 1e-3
_BATCH = 64
_DIVERGENCE = "KL divergence"
_LEAST_BATCH = 8  # least number of samples for batch statistics


@dataclass(frozen=True)
class Savings:
    """Saving of each block as a fraction of the model's cost, with the unit of the cost."""

    by_block: dict[str, float]
    unit: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Removal:
    """One removal with the added and the total loss of the outputs."""

    block: Block
    added: float
    total: float


class OutputLoss:
    """Distance of a module's outputs on calibration data from the original ones.

    KL divergence for logits ``[n, classes]``, the relative squared error for others; the mean over the floating
    outputs. BatchNorm uses batch statistics: training adapts them quickly, and the old ones do not fit a model without
    a block.
    """

    def __init__(self, module: nn.Module, work: Work, samples: int) -> None:
        calibration = work.task.calibration
        self.samples = min(samples, len(calibration))
        self._task, self._split = work.task, calibration.take(range(self.samples))
        self._batch = math.ceil(self.samples / math.ceil(self.samples / _BATCH))  # batches of similar size
        self._reference = self._outputs(module)
        classes = class_outputs(work.task)
        names = [name or LONE for name, leaf in named_leaves(self._reference) if leaf.is_floating_point()]
        self._kinds = [_DIVERGENCE if name in classes else "relative squared error" for name in names]
        self.words = " and ".join(dict.fromkeys(self._kinds))

    def __call__(self, module: nn.Module) -> float:
        """Return the loss; infinity for outputs that are not finite."""
        trees = self._reference, self._outputs(module)
        outputs = [list(filter(torch.Tensor.is_floating_point, leaves(tree))) for tree in trees]
        losses = [_distance(kind, mine, new) for kind, mine, new in zip(self._kinds, *outputs, strict=True)]
        loss = sum(losses) / max(1, len(losses))
        return loss if math.isfinite(loss) else math.inf

    def _outputs(self, module: nn.Module) -> Tree:
        statistics = batch_statistics(module) if self.samples >= _LEAST_BATCH else nullcontext()
        with statistics:
            return self._task.outputs(lambda inputs: predict_with(module, inputs), self._split, self._batch)


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Use batch statistics in BatchNorm in eval mode, for a block."""
    norms: list[Any] = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    with restoring(norms, "running_mean", "running_var"):
        for layer in norms:
            layer.running_mean = layer.running_var = None
        yield


def _distance(kind: str, expected: torch.Tensor, output: torch.Tensor) -> float:
    if kind == _DIVERGENCE:
        return max(0.0, float(leaf_loss(output.double(), expected.double(), 1.0, "kl")))
    return relative_squared_error([expected], [output])


def savings(step: PruneDepth, work: Work, blocks: Sequence[Block]) -> Savings:
    """Return the saving of each block: in latency if the step measures it, else in MACs.

    Blocks of one kind are assumed to take equally long and measured together.
    """
    if work.cost is None or not step.measure_latency:
        macs = max(1, count_macs(work.module, work.task.examples(2)))
        note = "Saving of a block: its multiply-accumulates (measure_latency is False)."
        return Savings({block.name: block.macs / macs for block in blocks}, "multiply-accumulates", (note,))
    whole = _cost(work, {})
    kinds = Counter(block.kind for block in blocks)
    share: dict[tuple[object, ...], float] = {}
    for number, kind in enumerate(kinds):
        same = [block for block in blocks if block.kind == kind]
        work.progress(Progress(step.label, number, len(kinds), f"measuring the latency of {same[0].name}"))
        saved = whole - _cost(work, {block.name: block.stand_in for block in same})
        share[kind] = max(_LEAST_SAVING, saved / len(same) / whole)
    listed = ", ".join(
        f"{share[kind]:.1%} for {next(block.name for block in blocks if block.kind == kind)}"
        + (f" and {count - 1} alike" if count > 1 else "")
        for kind, count in kinds.items()
    )
    note = (
        f"Saving of a block: latency measured on {step.engine} at batch {step.engine_batch}, of {whole:.4g}: {listed}."
    )
    return Savings({block.name: share[block.kind] for block in blocks}, "latency", (note,))


def _cost(work: Work, stand_ins: dict[str, nn.Module]) -> float:
    module = copy_module(work.module)
    for name, stand_in in stand_ins.items():
        put(module, name, copy_module(stand_in))
    return work.cost_of(module.eval())


class BlockRemover:
    """Remove blocks one by one, each time the one of least added loss per saving.

    An outdated loss is usually a lower bound. Therefore only the first block of the ranking is scored again, until the
    first one's loss is recent. That usually gives the order of scoring all blocks.
    """

    def __init__(
        self, step: PruneDepth, work: Work, blocks: Sequence[Block], loss: OutputLoss, saving: Savings
    ) -> None:
        self.step, self.work, self.loss, self.saving = step, work, loss, saving
        self.left = {block.name: block for block in blocks}
        self.removals: list[Removal] = []
        self.broken: dict[str, str] = {}
        self.added: dict[str, float] = {}
        self.scored = 0
        self._turns: dict[str, int] = {}
        self._base = 0.0
        self._example = work.task.examples(2)
        self._expected = predict_with(work.module, self._example)

    def remove(self, count: int) -> None:
        """Remove up to ``count`` blocks; fewer if the model fails without more of them."""
        while len(self.removals) < count:
            name = self._next(count)
            if name is None:
                return
            recent = len(self.removals) % self.step.rescore == 0
            added, block = self.added.pop(name), self.left.pop(name)
            put(self.work.module, name, block.stand_in)
            total = self._base + added if recent else self.loss(self.work.module)
            self.removals.append(Removal(block, added, total))
            if len(self.removals) % self.step.rescore == 0:
                self._base = total

    def _next(self, count: int) -> str | None:
        turn = len(self.removals) // self.step.rescore
        while self.left:
            name = min(self.left, key=self._rank)
            if self._turns.get(name) == turn:
                return name
            self.work.progress(Progress(self.step.label, len(self.removals), count, f"scoring {name}"))
            self._score(name, turn)
        return None

    def _rank(self, name: str) -> float:
        if name not in self.added:
            return -math.inf
        return max(self.added[name], _LEAST_LOSS) / self.saving.by_block[name]

    def _score(self, name: str, turn: int) -> None:
        self.scored += 1
        reason: str | None
        try:
            with replaced(self.work.module, {name: self.left[name].stand_in}):
                reason = difference(self._expected, predict_with(self.work.module, self._example))
                total = math.inf if reason else self.loss(self.work.module)
        except Exception as error:  # noqa: BLE001 - the forward around the blocks may raise anything
            reason, total = f"the model fails without it ({type(error).__name__}: {first_line(error)[:120]})", math.inf
        if math.isfinite(total):
            self.added[name], self._turns[name] = total - self._base, turn
            return
        others = f", with {len(self.removals)} others removed" if self.removals else ""
        self.broken[name] = f"{reason or 'the model gives NaN or infinity without it'}{others}"
        del self.left[name]
        self.added.pop(name, None)
