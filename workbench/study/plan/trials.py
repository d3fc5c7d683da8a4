"""The plan of a study: its trials, their keys and their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.core.config import canonical_json, short_id
from workbench.core.errors import ConfigError
from workbench.core.machine import FINGERPRINT_LIBRARIES, Site, fingerprint_id, this_site
from workbench.study.config import BASELINE_BACKEND, ReferenceKind, RunConfig, checked_references, primary_batch
from workbench.study.plan.recipes import default_recipes, ordered_recipes
from workbench.study.plan.shapes import OperatingPoint, Shape, shape_words
from workbench.study.results.schema import TrialRow, engine_words, new_row


@dataclass(frozen=True)
class Trial:
    """A planned trial. ``baseline`` marks the float model on the baseline's backend.

    ``options`` are those of the engine beyond backend, batch size and threads, sorted by name. ``reference`` is the
    label of a reference row.
    """

    key: str
    recipe: Recipe
    name: str
    backend: str
    batch_size: int
    threads: int
    artifact_key: str
    baseline: bool
    shape: Shape = ()
    options: tuple[tuple[str, Any], ...] = ()
    reference: str | None = None

    @property
    def point(self) -> OperatingPoint:
        """The operating point."""
        return OperatingPoint(self.batch_size, self.shape)

    @property
    def words(self) -> str:
        """The label of the trial."""
        return f"{self.name} on {self.engine_words} at batch {self.point.words}"

    @property
    def engine_json(self) -> str:
        """The engine's options as in a row."""
        return canonical_json(dict(self.options))

    @property
    def judged_on(self) -> tuple[str, str, str]:
        """The key of quality, as :func:`workbench.study.results.schema.judged_on`."""
        return self.recipe.recipe_id, self.backend, self.engine_json

    @property
    def engine_words(self) -> str:
        """The backend, with the options that are not its defaults."""
        return engine_words(self.backend, dict(self.options))

    def with_threads(self, count: int) -> Trial:
        """Return the same trial of this machine with another number of threads."""
        key = trial_key(self.artifact_key, self.backend, self.point, count)
        return replace(self, threads=count, key=key)


@dataclass(frozen=True)
class Plan:
    """All trials: every recipe at the ``primary`` point first, then at the other ones, see :meth:`rest`."""

    trials: tuple[Trial, ...]
    recipes: tuple[Recipe, ...]
    backends: tuple[str, ...]
    primary: OperatingPoint
    others: tuple[OperatingPoint, ...]
    baseline_notes: Mapping[OperatingPoint, str] = field(default_factory=dict)
    """Why the baseline of a point has its number of threads."""

    @property
    def references(self) -> tuple[Trial, ...]:
        """The trials that are shown beside the baseline."""
        return tuple(trial for trial in self.trials if trial.reference is not None)

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """All of them, the primary one first."""
        return (self.primary, *self.others)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Every batch size once."""
        return tuple(dict.fromkeys(point.batch for point in self.points))

    def words(self) -> str:
        """Return what will be done, in a sentence."""
        names = ", ".join(r.name or r.label for r in self.recipes)
        sizes = " then ".join(point.words for point in self.points)
        return (
            f"plan: {len(self.trials)} trials of {len(self.recipes)} recipes ({names}) on {', '.join(self.backends)}, "
            f"batch {sizes}, {max(trial.threads for trial in self.trials)} threads"
        )

    def group(self, recipe: Recipe, point: OperatingPoint) -> list[Trial]:
        """Return the trials of one recipe at one point: they are timed together."""
        return [t for t in self.trials if t.recipe == recipe and t.point == point]

    def of(self, recipe: Recipe) -> list[Trial]:
        """Return all trials of a recipe."""
        return [t for t in self.trials if t.recipe == recipe]

    def rest(
        self, recipes: Sequence[Recipe], *, tiers: Sequence[Collection[str]]
    ) -> list[tuple[Recipe, OperatingPoint]]:
        """Return the groups at the other points: the float model's and those of each tier of recipe ids ahead.

        A budget that ends early then cuts what nobody would choose, not a whole batch size.
        """
        left, parts = list(recipes), []
        for number, tier in enumerate(tiers):
            parts.append([r for r in left if r.recipe_id in tier or (number == 0 and not r.steps)])
            left = [r for r in left if r not in parts[-1]]
        return [(recipe, point) for part in (*parts, left) for point in self.others for recipe in part]

    def baseline(self, point: OperatingPoint) -> Trial:
        """Return the baseline trial at a point."""
        return next(t for t in self.trials if t.baseline and t.point == point)

    def rebased(self, threads: Mapping[OperatingPoint, int], notes: Mapping[OperatingPoint, str]) -> Plan:
        """Return the plan with other thread counts of the baseline; the other trials keep theirs."""

        def moved(trial: Trial) -> Trial:
            count = threads.get(trial.point, trial.threads)
            return trial.with_threads(count) if trial.baseline and count != trial.threads else trial

        return replace(self, trials=tuple(map(moved, self.trials)), baseline_notes=notes)

    def rows(self, task: str, task_fingerprint: str, *, site: Site | None = None) -> dict[str, TrialRow]:
        """Return a waiting row for each trial, by key; ``site`` is where the plan was made for, by default here."""
        site = site or this_site()
        return {
            t.key: new_row(
                task=task,
                recipe=t.name,
                recipe_id=t.recipe.recipe_id,
                recipe_json=t.recipe.to_json(),
                technique=t.recipe.technique,
                backend=t.backend,
                batch_size=t.batch_size,
                shape=shape_words(t.shape),
                threads=t.threads,
                engine_json=t.engine_json,
                baseline=t.baseline,
                reference=t.reference,
                trial_key=t.key,
                artifact_key=t.artifact_key,
                task_fingerprint=task_fingerprint,
                fingerprint=site.fingerprint,
                machine=site.words,
            )
            for t in self.trials
        }


def plan_for(
    task_fingerprint: str,
    recipes: Sequence[Recipe] | None,
    config: RunConfig,
    *,
    shapes: tuple[Shape, ...] = ((),),
    site: Site | None = None,
) -> Plan:
    """Return the plan of a run, with its defaults; errors as in :meth:`Study.run`.

    With a ``site`` elsewhere, the caller has checked which of the backends run there.
    """
    from workbench.engine.backends import require_backend
    from workbench.engine.names import is_backend, unknown_backend

    kinds = checked_references(config.references)
    backends = _default_backends() if config.backends is None else config.backends
    for name in (*backends, config.baseline):
        if not is_backend(name):
            raise ConfigError(unknown_backend(name))
    for name in (*backends, config.baseline, *(kind.backend for kind in kinds)):
        if site is None:
            require_backend(name)
    return make_plan(
        task_fingerprint,
        default_recipes(config.budget_s) if recipes is None else recipes,
        backends,
        config.batch_sizes,
        threads=config.threads or (site or this_site()).threads,
        shapes=shapes,
        site=site,
        baseline=config.baseline,
        references=kinds,
    )


def _default_backends() -> tuple[str, ...]:
    from workbench.engine.backends import backend_status
    from workbench.engine.names import DEFAULT_BACKENDS

    return tuple(state.name for state in backend_status(DEFAULT_BACKENDS) if state.available)


def make_plan(
    task_fingerprint: str,
    recipes: Sequence[Recipe],
    backends: Sequence[str],
    batch_sizes: Sequence[int],
    *,
    threads: int,
    shapes: tuple[Shape, ...] = ((),),
    site: Site | None = None,
    baseline: str = BASELINE_BACKEND,
    references: Sequence[ReferenceKind] = (),
) -> Plan:
    """Return the plan, with the float model first; it is added if it is missing, because it is the baseline.

    The primary point is batch 32 if asked for, else the largest, at the first shape. StudyError is raised if an entry
    is not a Recipe, or two different recipes have one name.
    """
    ordered = ordered_recipes(recipes)
    chosen = tuple(dict.fromkeys(backends))
    batch = primary_batch(batch_sizes)
    ordered_sizes = (batch, *sorted((size for size in batch_sizes if size != batch), reverse=True))
    primary, *others = [OperatingPoint(size, shape) for size in ordered_sizes for shape in shapes]
    trials = []
    for point in (primary, *others):
        for recipe in ordered:
            runs_on = chosen if recipe.steps else dict.fromkeys((baseline, *chosen))
            where: dict[str, Any] = {"site": site, "baseline": baseline}
            trials += [planned(task_fingerprint, recipe, backend, point, threads, **where) for backend in runs_on]
            for kind in references if point == primary and not recipe.steps else ():
                like = planned(task_fingerprint, recipe, kind.backend, point, threads, kind.options, site=site)
                key = trial_key(like.artifact_key, kind.backend, point, threads, site=site, reference=kind.words)
                trials.append(replace(like, key=key, baseline=False, reference=kind.words))
    return Plan(tuple(trials), ordered, chosen, primary, tuple(others))


def planned(
    task_fingerprint: str,
    recipe: Recipe,
    backend: str,
    point: OperatingPoint,
    threads: int,
    options: tuple[tuple[str, Any], ...] = (),
    *,
    site: Site | None = None,
    baseline: str = BASELINE_BACKEND,
) -> Trial:
    """Return one trial of a task, with its keys; the float model on the backend ``baseline`` is the baseline."""
    site = site or this_site()
    artifact = artifact_key(recipe.recipe_id, task_fingerprint, dict(site.libraries), int8_dot=site.int8_dot)
    extra = {"options": dict(options)} if options else {}
    key = trial_key(artifact, backend, point, threads, site=site, **extra)
    is_baseline = not recipe.steps and backend == baseline and not options
    name = recipe.name or recipe.label
    return Trial(key, recipe, name, backend, point.batch, threads, artifact, is_baseline, point.shape, options)


def artifact_key(recipe_id: str, task_fingerprint: str, libraries: Mapping[str, str | None], *, int8_dot: bool) -> str:
    """Return the key of an artifact, 12 hex digits, for a recipe, a task, these libraries and this kind of CPU."""
    return short_id(
        {
            "recipe": recipe_id,
            "task": task_fingerprint,
            "libraries": {name: libraries.get(name) for name in FINGERPRINT_LIBRARIES},
            "int8_dot": int8_dot,  # int8 schemes are chosen for the CPU
        }
    )


def trial_key(
    artifact: str, backend: str, point: OperatingPoint, threads: int, *, site: Site | None = None, **extra: Any
) -> str:
    """Return the key of a trial on a machine; ``extra`` holds further conditions of the measurement."""
    if point.shape:
        extra["shape"] = shape_words(point.shape)
    engine, machine = {"backend": backend, "threads": threads}, site.fingerprint if site else fingerprint_id()
    return short_id({"artifact": artifact, "engine": engine, "batch_size": point.batch, "machine": machine, **extra})
