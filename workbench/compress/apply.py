"""Carry out a recipe: copy, step by step, with a report each; the task's own model is never touched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from workbench.compress.graph.hf_conv1d import with_plain_linears
from workbench.compress.sparsify.masks import Held, zeros_held
from workbench.compress.steps import Distill, Factorize, Prune, PruneDepth, Quantize, Recover, Sparsify, Step
from workbench.compress.training.checkpoint import Checkpoint
from workbench.compress.variant import LayerReport, StepReport, Variant, count_macs, count_params, predict_with
from workbench.core.errors import ConfigError, CoverageError
from workbench.core.files import require_writable
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.module import copied_module

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.tasks.task import Task


Cost = Callable[[Variant], float]
"""What a variant costs where it will run, for example ms per batch: measured by someone who knows the engines."""


@dataclass(frozen=True)
class Work:
    """What a step gets: the task, a module of its own to change, and who to ask or tell.

    ``cost`` measures a variant where it will run. ``checkpoints`` is a folder where a training keeps its state, or
    None; ``key`` names recipe and task there.
    """

    task: Task
    module: nn.Module
    progress: ProgressCallback
    seed: int
    cost: Cost | None = None
    checkpoints: Path | None = None
    key: str = ""

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """Return where the training of that name keeps its state; None where nothing is kept."""
        if self.checkpoints is None:
            return None
        return Checkpoint(self.checkpoints / f"{self.key}-{stage}-{self.seed}.pt")


@dataclass(frozen=True)
class Outcome:
    """What a step gives back; ``layers`` says for every candidate layer whether it was touched, or why not.

    ``declined``: the step did its work and put the module back as it was, since what it made was no better. That is
    no error, although no layer is touched.
    """

    module: nn.Module
    layers: tuple[LayerReport, ...]
    epochs_done: float = 0.0
    notes: tuple[str, ...] = ()
    quantized: bool = False
    declined: bool = False


Handler = Callable[[Any, Work], Outcome]
# By name, so that torch-pruning and torchao are only imported by the steps that use them.
HANDLERS: dict[type[Step], str] = {
    Prune: "workbench.compress.prune.apply:prune",
    PruneDepth: "workbench.compress.depth.apply:prune_depth",
    Distill: "workbench.compress.distill.apply:distill",
    Recover: "workbench.compress.distill.apply:recover",
    Factorize: "workbench.compress.factorize.apply:factorize",
    Sparsify: "workbench.compress.sparsify.apply:sparsify",
    Quantize: "workbench.compress.quantize.apply:quantize",
}

# What can be found wrong with a step's options before the first step starts.
CHECKS: dict[type[Step], str] = {Distill: "workbench.compress.distill.apply:check"}


@runtime_checkable
class SharedPrefixes(Protocol):
    """A cache that several processes use: ``making`` holds the right to make one entry."""

    def making(self, recipe_id: str, waiting: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Wait, calling ``waiting``, while another process makes the entry."""


def apply_recipe(
    recipe: Recipe,
    task: Task,
    *,
    progress: ProgressCallback,
    cache: MutableMapping[str, Variant] | None,
    cost: Cost | None = None,
    checkpoints: Path | None = None,
) -> Variant:
    """Return the variant of ``recipe``; see :meth:`Recipe.apply`."""
    _check_cost(recipe, cost)
    if checkpoints is not None:
        require_writable(checkpoints)
    with torch.random.fork_rng(devices=[]):
        task.check()
        check_steps(recipe.steps, task)
        variant = _start(recipe, task, progress, cache)
        reused = len(variant.reports)
        for index in range(reused, len(recipe.steps)):
            prefix = recipe.prefixes()[index]
            with _making(cache, prefix, progress):
                found = _cached(cache, prefix, task)  # another process may have made it meanwhile
                if found is not None:
                    variant, reused = found, index + 1
                    continue
                work = Work(task, variant.module, progress, _seed(recipe, index), cost, checkpoints)
                variant = _apply_step(recipe, index, variant, work)
                if cache is not None and not variant.quantized:
                    cache[prefix.recipe_id] = _own_copy(variant)
    return replace(variant, recipe=recipe, reused_steps=reused)


def check_steps(steps: Iterable[Step], task: Task) -> None:
    """Raise ConfigError if options do not fit the task, before any work starts: a teacher that is not there."""
    for step in steps:
        _check_training_split(step, task)
        if type(step) in CHECKS:
            _found(CHECKS[type(step)])(step, task)


def _check_training_split(step: Step, task: Task) -> None:
    if step.training_option is None:
        return
    words = f"{type(step).__name__}({step.training_option})"
    if not task.has_train:
        raise ConfigError(
            f"{words} needs a training split, and the task {task.name!r} has none. Give Task(train=(inputs, targets)), "
            "or use options that train nothing."
        )
    if "epochs" in step.training_option and len(task.train) < 2:  # batch norm cannot train on a single sample
        raise ConfigError(
            f"{words} needs at least 2 training samples, and the task {task.name!r} has 1 beside validation and "
            "calibration. Give more samples, or use options that train nothing."
        )


def _check_cost(recipe: Recipe, cost: Cost | None) -> None:
    for step in recipe.steps:
        if step.measured_on is None:
            continue
        engine, batch = step.measured_on
        words = f"The step '{step.label}' goes by latency measured on {engine} at batch {batch}"
        if cost is None:
            raise ConfigError(
                f"{words}, and nothing was given to measure it with. Use recipe.apply(task, "
                "cost=wb.latency_cost(recipe)); a Study measures by itself."
            )
        measures = getattr(cost, "measures", (engine, batch))
        if measures != (engine, batch):
            raise ConfigError(
                f"{words}; the cost given measures {measures[0]} at batch {measures[1]}. Use wb.latency_cost(recipe)."
            )


def _start(
    recipe: Recipe, task: Task, progress: ProgressCallback, cache: MutableMapping[str, Variant] | None
) -> Variant:
    """Return the longest cached beginning of ``recipe``, or the float model."""
    for prefix in reversed(recipe.prefixes()):
        found = _cached(cache, prefix, task)
        if found is not None:
            return found
    progress(Progress("float", message=f"measuring the float model of {task.name}"))
    module = task.model()
    empty = type(recipe)(seed=recipe.seed)
    macs = count_macs(module, task.examples(2))
    quality = task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
    return Variant(module, empty, (), task, False, count_params(module), macs, quality)


def _cached(cache: MutableMapping[str, Variant] | None, prefix: Recipe, task: Task) -> Variant | None:
    found = cache.get(prefix.recipe_id) if cache is not None else None
    if found is None or found.task.fingerprint != task.fingerprint:
        return None
    return replace(_own_copy(found), task=task)


def _making(
    cache: MutableMapping[str, Variant] | None, prefix: Recipe, progress: ProgressCallback
) -> contextlib.AbstractContextManager[None]:
    shared: object = cache
    # A quantized variant ends a recipe: nobody waits for it.
    if not isinstance(shared, SharedPrefixes) or isinstance(prefix.steps[-1], Quantize):
        return contextlib.nullcontext()
    words = f"waiting for another process that prepares {prefix.label}"
    return shared.making(prefix.recipe_id, lambda: progress(Progress(prefix.steps[-1].label, message=words)))


def _own_copy(variant: Variant) -> Variant:
    return replace(variant, module=copied_module(variant.module))


def _seed(recipe: Recipe, index: int) -> int:
    # It depends on the place in the recipe only, so that equal beginnings give equal variants.
    return recipe.seed * 7919 + index


def _apply_step(recipe: Recipe, index: int, before: Variant, work: Work) -> Variant:
    step, task = recipe.steps[index], before.task
    with_plain_linears(before.module)
    started = time.perf_counter()
    stage = step.label
    work.progress(Progress(stage, message=f"step {index + 1} of {len(recipe.steps)}"))
    torch.manual_seed(work.seed)
    prefix = recipe.prefixes()[index]
    if work.checkpoints is not None:
        work = replace(work, key=f"{prefix.recipe_id}-{task.fingerprint}")
    with _zeros_of(before, step) as held:
        outcome = carry_out(step, work)
    touched = sum(layer.touched for layer in outcome.layers)
    if not touched and not outcome.declined and not step.allow_untouched:
        raise CoverageError(_nothing_touched(stage, outcome.layers))
    module = outcome.module
    quality = task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
    params, macs = _count(outcome, before)
    notes = [*outcome.notes]
    if held.zeros:
        notes.append(f"Zeros of Sparsify held in training: {held.zeros:,} of {held.weights:,} weights.")
    if not touched:
        notes.append("This step changed no layer.")
    report = StepReport(
        step=step,
        label=stage,
        layers=outcome.layers,
        params_before=before.params,
        params_after=params,
        macs_before=before.macs,
        macs_after=macs,
        quality_before=before.quality,
        quality_after=quality,
        seconds=time.perf_counter() - started,
        epochs_done=outcome.epochs_done,
        notes=tuple(notes),
    )
    work.progress(Progress(stage, 1, 1, values={"quality": quality, "params": params, "macs": macs}))
    return Variant(
        module=module,
        recipe=prefix,
        reports=(*before.reports, report),
        task=task,
        quantized=outcome.quantized,
        params=params,
        macs=macs,
        quality=quality,
    )


def _zeros_of(before: Variant, step: Step) -> AbstractContextManager[Held]:
    """Return a context in which a step's training keeps the zeros that an earlier Sparsify made.

    Sparsify itself says when to hold them and when to let them go.
    """
    made = [report.step for report in before.reports if isinstance(report.step, Sparsify)]
    sparse = any(not earlier.dense_epochs for earlier in made) and not isinstance(step, Sparsify)
    return zeros_held() if sparse else nullcontext(Held())


def _count(outcome: Outcome, before: Variant) -> tuple[int, int]:
    # Quantizing changes the width of numbers, not how many there are; its graph holds folded constants.
    if outcome.quantized:
        return before.params, before.macs
    return count_params(outcome.module), count_macs(outcome.module, before.task.examples(2))


def carry_out(step: Step, work: Work) -> Outcome:
    """Change ``work.module`` as one step says, without judging what comes out."""
    return cast(Handler, _found(HANDLERS[type(step)]))(step, work)


def _found(where: str) -> Callable[..., Any]:
    module, name = where.split(":")
    return cast(Callable[..., Any], getattr(import_module(module), name))


def _nothing_touched(stage: str, layers: tuple[LayerReport, ...]) -> str:
    shown = "; ".join(f"{layer.name} ({layer.type}): {layer.reason}" for layer in layers[:5])
    more = f"; and {len(layers) - 5} more" if len(layers) > 5 else ""
    return (
        f"The step '{stage}' touched no layer. {shown or 'The model has no layer of a kind that it handles'}{more}. "
        "Change its options, leave it out, or pass allow_untouched=True."
    )
