"""Training loop with a time limit, early stopping and resumable checkpoints."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from workbench.compress.training.checkpoint import Checkpoint
from workbench.compress.training.numerics import Forward, Numerics, choose_numerics, default_numerics, number_format
from workbench.compress.training.plan import EarlyStopping, TrainingPlan, TrainingResult, make_optimizer, rate_factor
from workbench.core.allocator import use_steady_allocator
from workbench.core.config import short_id
from workbench.core.errors import WorkbenchError
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.module import weights_digest
from workbench.tasks.split import Split
from workbench.tasks.trees import Tree, tree_map

BatchLoss = Callable[[Tree, Tree, Tree, torch.Tensor], torch.Tensor]
"""``loss(outputs, inputs, targets, indices)`` with augmented inputs and indices into the training split."""

_REPORT_EVERY_S = 0.25
_LONGEST_GRADIENT = 5.0


class LossState(Protocol):
    """State of a loss that checkpoints hold; ``identity`` is part of the checkpoint's signature."""

    identity: str

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def train(
    module: nn.Module,
    data: Split,
    loss: BatchLoss,
    plan: TrainingPlan,
    *,
    stage: str,
    progress: ProgressCallback,
    seed: int,
    augment: Callable[[Tree, torch.Generator], Tree] | None = None,
    on_share: Callable[[float], None] | None = None,
    quality: Callable[[], float] | None = None,
    extra: nn.Module | None = None,
    memory: LossState | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingResult:
    """Train ``module`` in place, in its current mode.

    The learning rate follows the larger share of steps and ``max_seconds``, so that a training cut by time ends with a
    small one too. From then on the process uses :func:`workbench.core.allocator.use_steady_allocator`.

    Parameters
    ----------
    progress
        Receives ``values``: ``loss`` (running mean), ``epoch``, ``step``, ``learning_rate``, ``samples_per_s``
        (without evaluations), and after an evaluation ``metric`` with its ``metric_epoch``.
    augment
        Changes a batch of inputs, with random numbers from the given generator.
    on_share
        Called before every step with the share of the training done, 0 to 1.
    quality
        Returns the metric of the module on the validation split; higher is better.
    extra
        Further parameters to train.
    memory
        State of ``loss`` for the checkpoint.
    checkpoint
        Resumed if its weights, plan and seed are equal, written while training, removed at the end. Without a time
        limit the final weights are bitwise those of an uninterrupted training.
    """
    use_steady_allocator()
    objective = loss, augment, on_share
    run = _Run(module, data, *objective, plan, stage, progress, seed, quality, extra or nn.Module(), memory, checkpoint)
    notes = run.begin()
    while not run.is_over():
        run.step()
        run.report()
    return run.end(notes)


@dataclasses.dataclass
class _Run:
    """State of one training between two steps."""

    module: nn.Module
    data: Split
    loss: BatchLoss
    augment: Callable[[Tree, torch.Generator], Tree] | None
    on_share: Callable[[float], None] | None
    plan: TrainingPlan
    stage: str
    progress: ProgressCallback
    seed: int
    quality: Callable[[], float] | None
    extra: nn.Module
    memory: LossState | None
    checkpoint: Checkpoint | None

    def __post_init__(self) -> None:
        plan = self.plan
        if not any(p.requires_grad for p in self.module.parameters()):
            raise WorkbenchError(
                f"{self.stage}: the model has no parameter that requires gradients. Call requires_grad_(True) on the "
                "module in build(), or leave the training out of the recipe."
            )
        self.numerics, self.forward = default_numerics(plan.precision), Forward(plan.precision)
        self.optimizer = make_optimizer(self.module, plan, extra=self.extra)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.generator = torch.Generator().manual_seed(self.seed)
        self.inputs, self.targets = self.data.inputs, self.data.targets
        self.batches = _Batches(len(self.data), plan.batch_size, self.generator)
        self.per_epoch = self.batches.per_epoch
        self.total = max(1, round(plan.epochs * self.per_epoch))
        every = max(1, round(plan.evaluate_every * self.per_epoch)) if plan.evaluate_every else 0
        self.stopping = EarlyStopping(self.module, self.quality, every=every, patience=plan.patience)
        self.done, self.mean_loss, self.rate = 0, math.nan, 0.0
        self.samples, self.step_s = 0, 0.0
        self.started = self.reported = time.perf_counter()
        self.signature, self.next_save = "", math.inf

    def begin(self) -> tuple[str, ...]:
        """Resume from the checkpoint, or choose the numerics; evaluate and return notes."""
        state, note = None, None
        if self.checkpoint is not None:
            self.signature = self._signature()
            state, note = self.checkpoint.load(self.signature)
            self.next_save = self.checkpoint.due(time.perf_counter())
        if state is not None:
            self._load(state)  # with its numerics, for bitwise equal weights
            note = f"Training went on from a checkpoint at epoch {self.done / self.per_epoch:.1f}."
        elif self.plan.timed:
            batch = tree_map(lambda x: x[: self.batches.size], self.inputs)
            options: dict[str, Any] = {"steps": self.total, "max_seconds": self.plan.max_seconds}
            self.numerics = choose_numerics(self.module, batch, precision=self.plan.precision, **options)
        if self.plan.precision == "auto" and self.numerics != default_numerics("auto"):
            self.forward = Forward(self.numerics.precision)
        self.numerics.prepare(self.module)
        self.inputs = self.numerics.arrange(self.inputs)
        if self.stopping.evaluate(self.done):
            self._report_progress(0.0)
        return (note,) if note else ()

    def share(self) -> float:
        """Return the share done, by steps or time, whichever is larger."""
        limit, elapsed = self.plan.max_seconds, time.perf_counter() - self.started
        return max(self.done / self.total, elapsed / limit if limit else 0.0)

    def is_over(self) -> bool:
        """Return whether steps, time or patience are exhausted; at least one step is always made."""
        return self.done > 0 and (self.done >= self.total or self.share() >= 1.0 or self.stopping.stopped)

    def step(self) -> None:
        """Train on one batch."""
        started = time.perf_counter()
        share = self.share()
        factor = rate_factor(share, self.plan.schedule)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.rate = self.peaks[0] * factor
        if self.on_share is not None:
            self.on_share(share)
        indices = self.batches.draw()
        batch, targets = (tree_map(lambda x: x[indices], tree) for tree in (self.inputs, self.targets))
        if self.augment is not None:
            batch = self.numerics.arrange(self.augment(batch, self.generator))
        value = self.loss(self.forward(self.module, batch), batch, targets, indices)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, _LONGEST_GRADIENT)
        self.optimizer.step()
        self.done += 1
        self.mean_loss = _running(self.mean_loss, float(value.detach()), self.stage)
        self.samples += len(indices)
        self.step_s += time.perf_counter() - started

    @property
    def samples_per_s(self) -> float | None:
        """Samples per second over the steps of this process; None before the first."""
        return self.samples / self.step_s if self.step_s else None

    def report(self) -> None:
        """Evaluate and write the checkpoint if they are due, and report progress a few times a second."""
        evaluated = self.stopping.evaluate(self.done)
        if evaluated or self.done == 1 or time.perf_counter() - self.reported > _REPORT_EVERY_S:
            self._report_progress(min(1.0, self.share()))
        if self.checkpoint is not None and time.perf_counter() >= self.next_save:
            self.next_save = self.checkpoint.save(self.signature, self._state())

    def end(self, notes: tuple[str, ...]) -> TrainingResult:
        """Evaluate the last weights, restore the best, and return the result."""
        self.stopping.evaluate(self.done, last=True)
        self._report_progress(1.0)
        epochs, best = self.done / self.per_epoch, self.stopping.best
        notes = (*notes, *self.stopping.restore(self.per_epoch, self.plan.epochs), *self._cut(epochs))
        numerics = str(dataclasses.replace(self.numerics, precision=number_format(self.forward.precision)))
        if self.checkpoint is not None:
            self.checkpoint.remove()
        kept_start = best is not None and best[1] == 0
        return TrainingResult(epochs, self.done, notes, kept_start, self.samples_per_s, numerics)

    def _cut(self, epochs: float) -> tuple[str, ...]:
        if self.done >= self.total or self.stopping.stopped or self.plan.max_seconds is None:
            return ()
        return (
            f"Training was cut by max_seconds={self.plan.max_seconds:g}: {epochs:.1f} of {self.plan.epochs:g} epochs; "
            "the learning rate was annealed over that time.",
        )

    def _report_progress(self, share: float) -> None:
        self.reported = time.perf_counter()
        epoch, stopping = self.done / self.per_epoch, self.stopping
        values: dict[str, Any] = {"epoch": epoch, "step": self.done, "learning_rate": self.rate}
        message = f"epoch {epoch:.1f} of {self.total / self.per_epoch:g}"
        if self.done:
            values["loss"] = self.mean_loss
            message += f", loss {self.mean_loss:.4f}"
        if self.samples_per_s is not None:
            values["samples_per_s"] = self.samples_per_s
            message += f", {self.samples_per_s:.0f} samples/s"
        if stopping.metric is not None and stopping.at is not None:
            values |= {"metric": stopping.metric, "metric_epoch": stopping.at / self.per_epoch}
            message += f", validation {stopping.metric:.4f}"
        self.progress(Progress(self.stage, share, 1.0, message, values))

    def _signature(self) -> str:
        """Return a hash of everything that determines this training."""
        return short_id(
            {
                "plan": dataclasses.asdict(self.plan),
                "seed": self.seed,
                "weights": [weights_digest(self.module), weights_digest(self.extra)],
                "memory": self.memory.identity if self.memory is not None else None,
                "torch": torch.__version__,
            }
        )

    def _state(self) -> dict[str, Any]:
        return {
            "module": dict(self.module.state_dict()),
            "extra": dict(self.extra.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generators": [self.generator.get_state(), torch.get_rng_state()],
            "batches": [self.batches.order, self.batches.position],
            "numerics": [self.numerics.channels_last, self.numerics.precision],
            "progress": [self.done, self.mean_loss, time.perf_counter() - self.started],
            "watch": self.stopping.state_dict(),
            "memory": self.memory.state_dict() if self.memory is not None else {},
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.extra.load_state_dict(state["extra"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.numerics = Numerics(*state["numerics"])
        own, common = state["generators"]
        self.generator.set_state(own)
        torch.set_rng_state(common)
        self.batches.order, self.batches.position = state["batches"]
        self.done, self.mean_loss, elapsed = state["progress"]
        self.started = time.perf_counter() - elapsed
        self.stopping.load_state_dict(state["watch"])
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])


class _Batches:
    """Endless shuffled index batches; a remainder smaller than a batch is dropped."""

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self.count, self.size, self.generator = count, min(size, count), generator
        self.per_epoch = max(1, count // self.size)
        self.order, self.position = torch.empty(0, dtype=torch.int64), count

    def draw(self) -> torch.Tensor:
        """Return the indices of the next batch."""
        if self.position + self.size > self.count:
            self.order, self.position = torch.randperm(self.count, generator=self.generator), 0
        self.position += self.size
        return self.order[self.position - self.size : self.position]


def _running(mean: float, value: float, stage: str) -> float:
    if not math.isfinite(value):
        raise WorkbenchError(
            f"{stage}: the training loss became {value}. Lower learning_rate, or check the data and the loss."
        )
    return value if math.isnan(mean) else 0.95 * mean + 0.05 * value
