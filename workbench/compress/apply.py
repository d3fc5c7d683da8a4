"""Apply a recipe to a copy of a task's model, step by step, with a report for each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from workbench.compress.handlers import CHECKS, HANDLERS, Cost, Outcome, Work
from workbench.compress.model_ops import count_macs, count_params, quality_of, replace_hf_conv1d
from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Factorize, Prune, PruneDepth, Quantize, Recover, Sparsify, Step
from workbench.compress.training.optimizer_hooks import HeldZeros, hold_zeros
from workbench.compress.variant import LayerReport, StepReport, Variant
from workbench.core.checks import given, require_callable, require_path
from workbench.core.errors import ConfigError, CoverageError, RecipeError
from workbench.core.files import writable_folder
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.tasks.load import load_task
from workbench.tasks.module import copy_module

if TYPE_CHECKING:
    from workbench.tasks.task import Task

Cache = MutableMapping[str, Variant]


@runtime_checkable
class SharedPrefixes(Protocol):
    """A cache shared by processes: ``making`` holds the lock of one entry."""

    def making(self, recipe_id: str, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Wait, calling ``waiting``, while another process makes the entry."""


def apply(
    recipe: Recipe,
    task: Task | str,
    *,
    progress: ProgressCallback = ignore_progress,
    cache: Cache | None = None,
    checkpoints: str | Path | None = None,
    cost: Cost | None = None,
) -> Variant:
    """Apply the steps of ``recipe`` to a copy of the task's model.

    Parameters
    ----------
    recipe : Recipe
        The steps and the seed.
    task : Task or str
        A task, or a reference for :func:`workbench.load_task`. Its own model is never changed, and its evaluation
        split is never used.
    progress : callable
        Called with each :class:`Progress`; raising :class:`Cancelled` in it stops the work.
    cache : mutable mapping, optional
        Prefix cache, id to variant: a prefix that recipes share is computed once. A dict serves one process; a
        :class:`workbench.PrefixCache` is on disk and serves all.
    checkpoints : path, optional
        Folder in which Distill and Recover save their state every 30 s. After a crash the training resumes from there,
        with bitwise equal weights unless ``max_seconds`` cuts it. The file is removed at the end.
    cost : callable, optional
        Returns the cost of a variant on its target engine, to be minimized, for ``Prune(of="latency")`` and
        ``PruneDepth``: ``wb.latency_cost(recipe)`` or your own function.

    Returns
    -------
    Variant
        The module with one :class:`StepReport` per step.

    Raises
    ------
    TaskError
        If the task cannot be used.
    ConfigError
        If an option does not fit the model, an argument has a wrong type, or a step needs ``cost`` and has none.
    CoverageError
        If a step changes no layer and does not allow that.

    Examples
    --------
    >>> wb.apply(wb.Recipe(wb.Prune(ratio=0.5)), wb.tasks.digits()).recipe.label  # doctest: +SKIP
    'prune 0.5'
    """
    _check_arguments(progress, cache, cost)
    folder = None if checkpoints is None else require_path("Recipe.apply: checkpoints", checkpoints)
    task = load_task(task)
    _check_cost(recipe, cost)
    if folder is not None:
        writable_folder(folder)
    with torch.random.fork_rng(devices=[]):
        task.check()
        check_steps(recipe.steps, task)
        variant = _longest_cached(recipe, task, cache) or _float_variant(recipe, task, progress)
        reused = len(variant.reports)
        for index in range(reused, len(recipe.steps)):
            prefix = recipe.prefixes()[index]
            with _lock(cache, prefix, progress):
                cached = _cached(cache, prefix, task)  # another process may have made it meanwhile
                if cached is not None:
                    variant, reused = cached, index + 1
                    continue
                seed = recipe.seed * 7919 + index  # by the position only, so that equal prefixes give equal variants
                work = Work(task, variant.module, progress, seed, cost, folder)
                variant = _apply_step(recipe, index, variant, work)
                if cache is not None and not variant.quantized:
                    cache[prefix.recipe_id] = _own_copy(variant)
    return replace(variant, recipe=recipe, reused_steps=reused)


def check_steps(steps: Iterable[Step], task: Task) -> None:
    """Raise ConfigError if options do not fit the task, such as a teacher that cannot be loaded."""
    for step in steps:
        _check_training_split(step, task)
        if isinstance(step, Distill):
            _import_handler(Distill)
        if type(step) in CHECKS:
            CHECKS[type(step)](step, task)


def run_step(step: Step, work: Work) -> Outcome:
    """Change ``work.module`` by one step, without judging the result."""
    kind = type(step)
    if kind not in HANDLERS:
        _import_handler(kind)
    if kind not in HANDLERS:
        raise RecipeError(
            f"{kind.__name__} has no handler. Decorate a function with register_handler({kind.__name__})."
        )
    return HANDLERS[kind](step, work)


def _import_handler(kind: type[Step]) -> None:
    """Import the module that registers the handler: torch-pruning and torchao are loaded only by their steps."""
    if kind is Prune:
        import workbench.compress.prune.apply
    elif kind is PruneDepth:
        import workbench.compress.depth.apply
    elif kind in (Distill, Recover):
        import workbench.compress.distill.apply
    elif kind is Factorize:
        import workbench.compress.factorize.apply
    elif kind is Sparsify:
        import workbench.compress.sparsify.apply
    elif kind is Quantize:
        import workbench.compress.quantize.apply  # noqa: F401


def _check_arguments(progress: object, cache: object, cost: object) -> None:
    require_callable("Recipe.apply: progress", progress, takes="each Progress report")
    if cost is not None:
        require_callable("Recipe.apply: cost", cost, takes="a Variant and returns a number")
    if cache is not None and not isinstance(cache, MutableMapping):
        raise ConfigError(
            f"Recipe.apply: cache must be a dict, a wb.PrefixCache(task) or None, got {given(cache)}. "
            "Use wb.PrefixCache(task, folder) to keep prefixes on disk."
        )


def _check_training_split(step: Step, task: Task) -> None:
    if step.training_option is None:
        return
    option = f"{type(step).__name__}({step.training_option})"
    if not task.has_train:
        raise ConfigError(
            f"{option} needs a training split, and the task {task.name!r} has none. Give Task(train=(inputs, targets)) "
            "or use options that train nothing."
        )
    if "epochs" in step.training_option and len(task.train) < 2:  # batch norm cannot train on a single sample
        raise ConfigError(
            f"{option} needs at least 2 training samples, and the task {task.name!r} has 1 after validation and "
            "calibration. Give more samples, or use options that train nothing."
        )


def _check_cost(recipe: Recipe, cost: Cost | None) -> None:
    for step in recipe.steps:
        if step.measured_on is None:
            continue
        engine, batch = step.measured_on
        need = f"The step '{step.label}' needs the latency on {engine} at batch {batch}"
        if cost is None:
            raise ConfigError(
                f"{need}, and no cost was given. Use recipe.apply(task, cost=wb.latency_cost(recipe)), or a Study."
            )
        measures = getattr(cost, "measures", (engine, batch))
        if measures != (engine, batch):
            raise ConfigError(
                f"{need}; the given cost measures {measures[0]} at batch {measures[1]}. Use wb.latency_cost(recipe)."
            )


def _longest_cached(recipe: Recipe, task: Task, cache: Cache | None) -> Variant | None:
    variants = (_cached(cache, prefix, task) for prefix in reversed(recipe.prefixes()))
    return next((variant for variant in variants if variant is not None), None)


def _float_variant(recipe: Recipe, task: Task, progress: ProgressCallback) -> Variant:
    progress(Progress("float", message=f"measuring the float model of {task.name}"))
    module = task.model()
    macs = count_macs(module, task.examples(2))
    start = Recipe(seed=recipe.seed)
    return Variant(module, start, (), task, False, count_params(module), macs, quality_of(module, task))


def _cached(cache: Cache | None, prefix: Recipe, task: Task) -> Variant | None:
    variant = cache.get(prefix.recipe_id) if cache is not None else None
    if variant is None or variant.task.fingerprint != task.fingerprint:
        return None
    return replace(_own_copy(variant), task=task)


def _lock(cache: Cache | None, prefix: Recipe, progress: ProgressCallback) -> AbstractContextManager[None]:
    shared: object = cache
    # A quantized variant is never a prefix.
    if not isinstance(shared, SharedPrefixes) or isinstance(prefix.steps[-1], Quantize):
        return nullcontext()
    message = f"waiting for another process that prepares {prefix.label}"
    return shared.making(prefix.recipe_id, lambda: progress(Progress(prefix.steps[-1].label, message=message)))


def _own_copy(variant: Variant) -> Variant:
    return replace(variant, module=copy_module(variant.module))


def _apply_step(recipe: Recipe, index: int, before: Variant, work: Work) -> Variant:
    step, task, prefix = recipe.steps[index], before.task, recipe.prefixes()[index]
    replace_hf_conv1d(before.module)
    started = time.perf_counter()
    work.progress(Progress(step.label, message=f"step {index + 1} of {len(recipe.steps)}"))
    torch.manual_seed(work.seed)
    if work.checkpoints is not None:
        work = replace(work, key=f"{prefix.recipe_id}-{task.fingerprint}")
    with _zeros_of(before, step) as held:
        outcome = run_step(step, work)
    touched = any(layer.touched for layer in outcome.layers)
    if not touched and not outcome.declined and not step.allow_untouched:
        raise CoverageError(_no_layer_touched(step.label, outcome.layers))
    module = outcome.module
    quality = quality_of(module, task)
    # Quantization changes the width of numbers, not their count; its graph holds folded constants.
    params, macs = before.params, before.macs
    if not outcome.quantized:
        params, macs = count_params(module), count_macs(module, task.examples(2))
    notes = outcome.notes
    if held.zeros:
        notes += (f"Zeros of Sparsify held in training: {held.zeros:,} of {held.weights:,} weights.",)
    if not touched:
        notes += ("This step changed no layer.",)
    report = StepReport(
        step=step,
        label=step.label,
        layers=outcome.layers,
        params_before=before.params,
        params_after=params,
        macs_before=before.macs,
        macs_after=macs,
        quality_before=before.quality,
        quality_after=quality,
        seconds=time.perf_counter() - started,
        epochs_done=outcome.epochs_done,
        notes=notes,
    )
    work.progress(Progress(step.label, 1, 1, values={"quality": quality, "params": params, "macs": macs}))
    return Variant(module, prefix, (*before.reports, report), task, outcome.quantized, params, macs, quality)


def _zeros_of(before: Variant, step: Step) -> AbstractContextManager[HeldZeros]:
    """Return a context in which training keeps the zeros of an earlier Sparsify; Sparsify manages its own."""
    earlier = [report.step for report in before.reports if isinstance(report.step, Sparsify)]
    sparse = any(not sparsify.dense_epochs for sparsify in earlier) and not isinstance(step, Sparsify)
    return hold_zeros() if sparse else nullcontext(HeldZeros())


def _no_layer_touched(stage: str, layers: tuple[LayerReport, ...]) -> str:
    reasons = "; ".join(f"{layer.name} ({layer.type}): {layer.reason}" for layer in layers[:5])
    rest = f"; and {len(layers) - 5} more" if len(layers) > 5 else ""
    return (
        f"The step '{stage}' touched no layer. {reasons or 'The model has no layer of a kind that it handles'}{rest}. "
        "Change its options, leave it out, or pass allow_untouched=True."
    )
