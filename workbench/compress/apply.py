"""Carry out a recipe: copy, step by step, with a report each; the task's own model is never touched."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from workbench.compress.plain import with_plain_linears
from workbench.compress.steps import Distill, Factorize, Prune, Quantize, Recover, Step
from workbench.compress.variant import LayerReport, StepReport, Variant, count_macs, count_params, predict_with
from workbench.core.errors import CoverageError
from workbench.core.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.tasks.task import Task


@dataclass(frozen=True)
class Work:
    """What a step gets: the task, a module of its own to change, and where to report."""

    task: Task
    module: nn.Module
    progress: ProgressCallback
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a step gives back; ``layers`` says for every candidate layer whether it was touched, or why not."""

    module: nn.Module
    layers: tuple[LayerReport, ...]
    epochs_done: float = 0.0
    notes: tuple[str, ...] = ()
    quantized: bool = False


Handler = Callable[[Any, Work], Outcome]
# By name, so that torch-pruning and torchao are only imported by the steps that use them.
HANDLERS: dict[type[Step], str] = {
    Prune: "workbench.compress.prune.step:prune",
    Distill: "workbench.compress.distill:distill",
    Recover: "workbench.compress.distill:recover",
    Factorize: "workbench.compress.factorize.step:factorize",
    Quantize: "workbench.compress.quantize.step:quantize",
}


def apply_recipe(
    recipe: Recipe, task: Task, *, progress: ProgressCallback, cache: MutableMapping[str, Variant] | None
) -> Variant:
    """Return the variant of ``recipe``; see :meth:`Recipe.apply`."""
    with torch.random.fork_rng(devices=[]):
        task.check()
        variant = _start(recipe, task, progress, cache)
        for index in range(len(variant.reports), len(recipe.steps)):
            variant = _apply_step(recipe, index, variant, progress)
            if cache is not None and not variant.quantized:
                cache[variant.recipe.recipe_id] = _own_copy(variant)
    return replace(variant, recipe=recipe)


def _start(
    recipe: Recipe, task: Task, progress: ProgressCallback, cache: MutableMapping[str, Variant] | None
) -> Variant:
    """Return the longest cached beginning of ``recipe``, or the float model."""
    for prefix in reversed(recipe.prefixes()):
        found = cache.get(prefix.recipe_id) if cache is not None else None
        if found is not None and found.task.fingerprint == task.fingerprint:
            return replace(_own_copy(found), task=task)
    progress(Progress("float", message=f"measuring the float model of {task.name}"))
    module = task.model()
    empty = type(recipe)(seed=recipe.seed)
    macs = count_macs(module, task.examples(2))
    quality = task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
    return Variant(module, empty, (), task, False, count_params(module), macs, quality)


def _own_copy(variant: Variant) -> Variant:
    return replace(variant, module=copy.deepcopy(variant.module))


def _apply_step(recipe: Recipe, index: int, before: Variant, progress: ProgressCallback) -> Variant:
    step, task = recipe.steps[index], before.task
    with_plain_linears(before.module)
    started = time.perf_counter()
    stage = step.label
    progress(Progress(stage, message=f"step {index + 1} of {len(recipe.steps)}"))
    # The seed depends on the place in the recipe only, so that equal beginnings give equal variants.
    seed = recipe.seed * 7919 + index
    torch.manual_seed(seed)
    outcome = _handler(step)(step, Work(task, before.module, progress, seed))
    touched = sum(layer.touched for layer in outcome.layers)
    if not touched and not step.allow_untouched:
        raise CoverageError(_nothing_touched(stage, outcome.layers))
    module = outcome.module
    quality = task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
    params, macs = _count(outcome, before)
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
        notes=outcome.notes if touched else (*outcome.notes, "This step changed no layer."),
    )
    progress(Progress(stage, 1, 1, values={"quality": quality, "params": params, "macs": macs}))
    return Variant(
        module=module,
        recipe=recipe.prefixes()[index],
        reports=(*before.reports, report),
        task=task,
        quantized=outcome.quantized,
        params=params,
        macs=macs,
        quality=quality,
    )


def _count(outcome: Outcome, before: Variant) -> tuple[int, int]:
    # Quantizing changes the width of numbers, not how many there are; its graph holds folded constants.
    if outcome.quantized:
        return before.params, before.macs
    return count_params(outcome.module), count_macs(outcome.module, before.task.examples(2))


def carry_out(step: Step, work: Work) -> Outcome:
    """Change ``work.module`` as one step says, without judging what comes out."""
    return _handler(step)(step, work)


def _handler(step: Step) -> Handler:
    module, name = HANDLERS[type(step)].split(":")
    return cast(Handler, getattr(import_module(module), name))


def _nothing_touched(stage: str, layers: tuple[LayerReport, ...]) -> str:
    shown = "; ".join(f"{layer.name} ({layer.type}): {layer.reason}" for layer in layers[:5])
    more = f"; and {len(layers) - 5} more" if len(layers) > 5 else ""
    return (
        f"The step '{stage}' touched no layer. {shown or 'The model has no layer of a kind that it handles'}{more}. "
        "Change its options, leave it out, or pass allow_untouched=True."
    )
