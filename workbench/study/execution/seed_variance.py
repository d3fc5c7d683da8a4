"""Seed variance: the quality of a recipe on one engine, prepared with several seeds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.compress.recipe import Recipe
from workbench.core.errors import StudyError, TrialFailed
from workbench.core.machine import default_threads
from workbench.core.progress import Progress, ProgressCallback
from workbench.study.config import BASELINE_BACKEND, PRIMARY_BATCH, RunConfig
from workbench.study.execution.quality import judge, write_inputs
from workbench.study.plan.recipes import check_recipes, row_recipe
from workbench.study.plan.trials import Trial, plan_for
from workbench.study.results.schema import TrialRow
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PrepareClient, pack_task
from workbench.study.workers.process import CancelToken
from workbench.study.workers.timing_client import EngineProcess, TimingSetup

if TYPE_CHECKING:
    import pandas as pd

    from workbench.study.study import Study


@dataclass(frozen=True)
class SeedResult:
    """One seed: quality on the engine, drop against the float model, quality on the validation split, parameters."""

    seed: int
    quality: float
    quality_drop: float
    validation_quality: float
    params: int


@dataclass(frozen=True)
class SeedVariance:
    """The result of :meth:`Study.seed_variance`: one per seed, all measured on ``backend`` at ``batch_size``."""

    recipe: Recipe
    backend: str
    batch_size: int
    results: tuple[SeedResult, ...]

    def frame(self) -> pd.DataFrame:
        """Return a row per seed, then mean, min and max of every column, in the metric's units."""
        import pandas as pd

        table = pd.DataFrame([asdict(result) for result in self.results]).set_index("seed")
        summary = table.agg(["mean", "min", "max"])
        table.index = [f"seed {seed}" for seed in table.index]
        return pd.concat([table, summary])

    def __repr__(self) -> str:
        values = [result.quality for result in self.results]
        return (
            f"SeedVariance({self.recipe.label!r} on {self.backend}, {len(values)} seeds: quality mean "
            f"{sum(values) / len(values):.4f}, min {min(values):.4f}, max {max(values):.4f})"
        )

    def _repr_html_(self) -> str:
        return str(self.frame().to_html())


def measure_seed_variance(
    study: Study,
    recipe: Recipe | None,
    seeds: int | Sequence[int],
    backend: str | None,
    stop: CancelToken,
    progress: ProgressCallback,
) -> SeedVariance:
    """Do :meth:`Study.seed_variance`: artifacts are kept and reused, no row is written."""
    task, files, row = study.task, study.files, study.best().row
    recipe, numbers = _recipe(recipe, row), _seeds(seeds)
    backend = backend or (row["backend"] if row else BASELINE_BACKEND)
    batch, threads = (row["batch_size"], row["threads"]) if row else (PRIMARY_BATCH, default_threads())
    recipes = [Recipe(*recipe.steps, seed=seed, name=f"{recipe.label}, seed {seed}") for seed in numbers]
    plan = plan_for(task.fingerprint, recipes, RunConfig(backends=(backend,), batch_sizes=(batch,), threads=threads))
    check_recipes(plan.recipes, task)
    packed, store, inputs = pack_task(task), ArtifactStore(files), files / "inputs" / task.fingerprint
    setup = TimingSetup(files, inputs, store.artifact, packed.build, stop)
    results: list[SeedResult] = []

    def notify(words: str) -> None:
        progress(Progress("seeds", len(results), len(recipes), words))

    def evaluate(trial: Trial, outputs: Path) -> dict[str, Any]:
        """Prepare a trial, write its outputs for the evaluation split, and return the preparation metadata."""

        def on_event(event: dict[str, Any]) -> None:
            notify(f"{trial.name}: {event['message'] or event['stage']}")

        notify(trial.words)
        try:
            prepared = store.prepared(trial, plan.batch_sizes)
            if prepared is None:
                prepared = client.prepare(trial, store, on_event, batch_sizes=plan.batch_sizes)
            arm = EngineProcess.start(trial, setup, name=f"seed-{trial.key}")
            try:
                arm.open()
                arm.evaluate(outputs, on_event)
            finally:
                arm.end(kill=stop.requested)
        except TrialFailed as error:
            raise StudyError(f"The seed variance cannot be measured: {trial.words}: {error}") from error
        return prepared

    client, done = PrepareClient(files, stop, prefix_cache=study.prefix_cache, policy=WorkerPolicy()), False
    client.carry(packed)
    try:
        client.start()  # imports while the inputs are written
        write_inputs(task, inputs, points=(plan.primary,))
        base = plan.baseline(plan.primary)
        reference = files / "outputs" / f"baseline-{base.artifact_key}"
        if not (reference / "tree.json").exists():
            evaluate(base, reference)
        for one in recipes:
            (trial,) = plan.group(one, plan.primary)
            outputs = files / "outputs" / f"seed-{trial.key}"
            prepared = evaluate(trial, outputs)
            judged = judge(task, outputs, reference)
            shutil.rmtree(outputs)
            if judged.quality is None or judged.drop is None:
                raise StudyError(f"The quality of {trial.words} is unknown: {judged.notes['quality']}")
            validation, params = prepared["validation_quality"], prepared["params"]
            results.append(SeedResult(one.seed, judged.quality, judged.drop, validation, params))
        notify("every seed is evaluated")
        done = True
    finally:
        client.close(kill=not done)
    return SeedVariance(recipe, backend, batch, tuple(results))


def _recipe(recipe: Recipe | None, best: TrialRow | None) -> Recipe:
    if recipe is None:
        if best is None:
            raise StudyError("seed_variance needs a recipe before the first run of the study. Pass recipe=...")
        recipe = row_recipe(best)
    if not isinstance(recipe, Recipe):
        raise StudyError(f"seed_variance needs a Recipe, got {recipe!r}. Write Recipe(Prune(0.5), ...).")
    if not recipe.steps:
        raise StudyError("seed_variance needs a recipe with steps: a seed does not change the float model.")
    return recipe


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    given = range(seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    numbers = list(given) if isinstance(given, list | tuple | range) else []
    valid = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31 for seed in numbers)
    if not numbers or not valid or len(set(numbers)) != len(numbers):
        raise StudyError(f"seeds must be a number of at least 1, or different seeds such as [0, 1, 2]; got {seeds!r}.")
    return numbers
