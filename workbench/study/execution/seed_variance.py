"""How far the quality of a recipe depends on its seed: the same steps prepared several times, judged on one engine."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.compress.recipe import Recipe
from workbench.core.errors import StudyError, TrialFailed
from workbench.core.machine import default_threads
from workbench.core.progress import Progress, ProgressCallback
from workbench.study.execution.quality import judge, write_inputs
from workbench.study.execution.timing_pool import EngineProcess, TimingSetup
from workbench.study.plan.trials import BASELINE_BACKEND, Plan, Trial, check_recipes, plan_for
from workbench.study.results.ranking import Recommendation
from workbench.study.results.schema import row_recipe
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.workers.prepare_client import PrepareClient, Shipment, pack
from workbench.study.workers.process import CancelToken

if TYPE_CHECKING:
    import pandas as pd

    from workbench.tasks.task import Task

_BATCH = 32


@dataclass(frozen=True)
class SeedResult:
    """One seed: quality on the engine, its drop against the float model, and what stands beside them."""

    seed: int
    quality: float
    quality_drop: float
    validation_quality: float
    params: int


@dataclass(frozen=True)
class SeedVariance:
    """The answer of :meth:`Study.seed_variance`: a result per seed, all measured on ``backend`` at ``batch_size``."""

    recipe: Recipe
    backend: str
    batch_size: int
    results: tuple[SeedResult, ...]

    def frame(self) -> pd.DataFrame:
        """Return a row per seed, then mean, min and max of every column; qualities in the metric's own units."""
        import pandas as pd

        table = pd.DataFrame([asdict(result) for result in self.results]).set_index("seed")
        summary = table.agg(["mean", "min", "max"])
        table.index = [f"seed {seed}" for seed in table.index]
        return pd.concat([table, summary])

    def __repr__(self) -> str:
        found = [result.quality for result in self.results]
        return (
            f"Spread({self.recipe.label!r} on {self.backend}, {len(found)} seeds: quality mean "
            f"{sum(found) / len(found):.4f}, min {min(found):.4f}, max {max(found):.4f})"
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
    """Do the work of :meth:`Study.seed_variance`; artefacts are kept and reused, no row is written."""
    recipe, wanted = _recipe(recipe, best), _seeds(seeds)
    row = best.row
    backend = backend or (row["backend"] if row else BASELINE_BACKEND)
    batch, threads = (row["batch_size"], row["threads"]) if row else (_BATCH, default_threads())
    recipes = [Recipe(*recipe.steps, seed=seed, name=f"{recipe.label}, seed {seed}") for seed in wanted]
    plan = plan_for(task.fingerprint, recipes, [backend], [batch], threads=threads, budget_s=None)
    check_recipes(plan.recipes, task)
    bench = _Bench(task, plan, pack(task), files, stop, progress, cache=cache)
    with bench.closing():
        return SeedVariance(recipe, backend, batch, bench.results(recipes))


def _recipe(recipe: Recipe | None, best: Recommendation) -> Recipe:
    if recipe is None:
        if best.row is None:
            raise StudyError("Nothing was measured yet, so that no recipe is recommended: run the study, or give one.")
        recipe = row_recipe(best.row)
    if not isinstance(recipe, Recipe):
        raise StudyError(f"spread needs a Recipe, got {recipe!r}. Write Recipe(Prune(0.5), ...).")
    if not recipe.steps:
        raise StudyError(
            "The recipe is the float model: it has no steps, so that a seed changes nothing. Give another."
        )
    return recipe


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    given = range(seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    wanted = list(given) if isinstance(given, list | tuple | range) else []
    plain = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31 for seed in wanted)
    if not wanted or not plain or len(set(wanted)) != len(wanted):
        raise StudyError(f"seeds must be a number of at least 1, or different seeds such as [0, 1, 2]; got {seeds!r}.")
    return wanted


class _Bench:
    """Prepares the seeds one after the other and runs the evaluation split through each, in processes of their own."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        shipment: Shipment,
        files: Path,
        stop: CancelToken,
        progress: ProgressCallback,
        *,
        cache: bool,
    ) -> None:
        self._task, self._plan, self._files, self._stop, self._progress = task, plan, files, stop, progress
        self._shelf = ArtifactStore(files)
        self._host = PrepareClient(shipment, files, stop, prefix_cache=cache)
        inputs = files / "inputs" / task.fingerprint
        self._setup = TimingSetup(files, inputs, self._shelf.artifact, shipment.build, stop)
        self._done = 0

    def results(self, recipes: Sequence[Recipe]) -> tuple[SeedResult, ...]:
        self._host.start()  # imports while the inputs are written
        write_inputs(self._task, self._setup.inputs, points=(self._plan.primary,))
        base = self._plan.baseline(self._plan.primary)
        reference = self._files / "outputs" / f"baseline-{base.artifact_key}"
        if not (reference / "tree.json").exists():
            self._outputs(base, reference)
        found = []
        for self._done, recipe in enumerate(recipes):
            (trial,) = self._plan.of(recipe)
            self._say(trial.words)
            found.append(self._result(trial, reference))
        self._done = len(recipes)
        self._say("every seed is judged")
        return tuple(found)

    def _result(self, trial: Trial, reference: Path) -> SeedResult:
        outputs = self._files / "outputs" / f"spread-{trial.key}"
        answer = self._outputs(trial, outputs)
        judged = judge(self._task, outputs, reference)
        shutil.rmtree(outputs)
        if judged.quality is None or judged.drop is None:
            raise StudyError(f"The quality of {trial.words} is not known: {judged.notes['quality']}")
        quality, validation = judged.quality, answer["validation_quality"]
        return SeedResult(trial.recipe.seed, quality, judged.drop, validation, answer["params"])

    def _outputs(self, trial: Trial, outputs: Path) -> dict[str, Any]:
        try:
            answer = self._prepared(trial)
            arm = EngineProcess.start(trial, self._setup, name=f"spread-{trial.key}")
            try:
                arm.open()
                arm.evaluate(outputs, lambda event: self._say(f"evaluating {trial.words}: {event['message']}"))
            finally:
                if self._stop.requested:
                    arm.worker.kill()
                else:
                    arm.worker.close()
        except TrialFailed as error:
            raise StudyError(f"The spread cannot be measured: {trial.words}: {error}") from error
        return answer

    def _prepared(self, trial: Trial) -> dict[str, Any]:
        sizes = self._plan.batch_sizes
        known = self._shelf.prepared(trial, sizes)
        if known is None:
            started = time.monotonic()

            def say(event: dict[str, Any]) -> None:
                self._say(f"{trial.name}: {event['message'] or event['stage']}")

            known = self._host.prepare(trial.recipe, self._shelf.target(trial), say, batch_sizes=sizes)
            known["prepare_s"] = time.monotonic() - started
            self._shelf.keep(trial, known)
        return known

    def _say(self, words: str) -> None:
        self._progress(Progress("spread", self._done, len(self._plan.recipes) - 1, words))

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """End the preparing process however the block ends."""
        whole = False
        try:
            yield
            whole = True
        finally:
            self._host.close(kill=not whole)
