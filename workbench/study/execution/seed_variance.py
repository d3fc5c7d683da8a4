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
from workbench.study.plan.trials import Plan, Trial, check_recipes, plan_for
from workbench.study.results.ranking import Recommendation
from workbench.study.results.schema import row_recipe
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.prepare_client import PrepareClient, Shipment, pack
from workbench.study.workers.process import CancelToken
from workbench.study.workers.timing_client import EngineProcess, TimingSetup

if TYPE_CHECKING:
    import pandas as pd

    from workbench.tasks.task import Task


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
    task: Task,
    recipe: Recipe | None,
    seeds: int | Sequence[int],
    backend: str | None,
    best: Recommendation,
    files: Path,
    stop: CancelToken,
    progress: ProgressCallback,
    *,
    cache: bool,
) -> SeedVariance:
    """Do :meth:`Study.seed_variance`: artifacts are kept and reused, no row is written."""
    recipe, numbers = _recipe(recipe, best), _seeds(seeds)
    row = best.row
    backend = backend or (row["backend"] if row else BASELINE_BACKEND)
    batch, threads = (row["batch_size"], row["threads"]) if row else (PRIMARY_BATCH, default_threads())
    recipes = [Recipe(*recipe.steps, seed=seed, name=f"{recipe.label}, seed {seed}") for seed in numbers]
    plan = plan_for(task.fingerprint, recipes, RunConfig(backends=(backend,), batch_sizes=(batch,), threads=threads))
    check_recipes(plan.recipes, task)
    shipment = pack(task)
    client, done = PrepareClient(shipment, files, stop, prefix_cache=cache, policy=WorkerPolicy()), False
    try:
        results = _Seeds(task, plan, shipment, files, stop, progress, client).results(recipes)
        done = True
        return SeedVariance(recipe, backend, batch, results)
    finally:
        client.close(kill=not done)


def _recipe(recipe: Recipe | None, best: Recommendation) -> Recipe:
    if recipe is None:
        if best.row is None:
            raise StudyError("seed_variance needs a recipe before the first run of the study. Pass recipe=...")
        recipe = row_recipe(best.row)
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


class _Seeds:
    """Prepares the seeds one after the other, and evaluates each in a process of its own."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        shipment: Shipment,
        files: Path,
        stop: CancelToken,
        progress: ProgressCallback,
        client: PrepareClient,
    ) -> None:
        self._task, self._plan, self._files, self._progress = task, plan, files, progress
        self._stop, self._client, self._store = stop, client, ArtifactStore(files)
        inputs = files / "inputs" / task.fingerprint
        self._setup = TimingSetup(files, inputs, self._store.artifact, shipment.build, stop)
        self._done = 0

    def results(self, recipes: Sequence[Recipe]) -> tuple[SeedResult, ...]:
        self._client.start()  # imports while the inputs are written
        write_inputs(self._task, self._setup.inputs, points=(self._plan.primary,))
        base = self._plan.baseline(self._plan.primary)
        reference = self._files / "outputs" / f"baseline-{base.artifact_key}"
        if not (reference / "tree.json").exists():
            self._evaluate(base, reference)
        results = []
        for self._done, recipe in enumerate(recipes):
            (trial,) = self._plan.group(recipe, self._plan.primary)
            self._say(trial.words)
            results.append(self._result(trial, reference))
        self._done = len(recipes)
        self._say("every seed is evaluated")
        return tuple(results)

    def _result(self, trial: Trial, reference: Path) -> SeedResult:
        outputs = self._files / "outputs" / f"seed-{trial.key}"
        prepared = self._evaluate(trial, outputs)
        judged = judge(self._task, outputs, reference)
        shutil.rmtree(outputs)
        if judged.quality is None or judged.drop is None:
            raise StudyError(f"The quality of {trial.words} is unknown: {judged.notes['quality']}")
        validation, params = prepared["validation_quality"], prepared["params"]
        return SeedResult(trial.recipe.seed, judged.quality, judged.drop, validation, params)

    def _evaluate(self, trial: Trial, outputs: Path) -> dict[str, Any]:
        """Write the outputs of a trial for the evaluation split, and return its preparation metadata."""

        def say(event: dict[str, Any]) -> None:
            self._say(f"{trial.name}: {event['message'] or event['stage']}")

        sizes = self._plan.batch_sizes
        try:
            prepared = self._store.prepared(trial, sizes)
            if prepared is None:
                prepared = self._client.prepare(trial, self._store, say, batch_sizes=sizes)
            arm = EngineProcess.start(trial, self._setup, name=f"seed-{trial.key}")
            try:
                arm.open()
                arm.evaluate(outputs, say)
            finally:
                arm.end(kill=self._stop.requested)
        except TrialFailed as error:
            raise StudyError(f"The seed variance cannot be measured: {trial.words}: {error}") from error
        return prepared

    def _say(self, words: str) -> None:
        self._progress(Progress("seeds", self._done, len(self._plan.recipes) - 1, words))
