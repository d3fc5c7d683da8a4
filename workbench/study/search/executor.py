"""One proposed point after the other, through the processes of a run: prepare, look, and time what is worth it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.core.errors import Cancelled, WorkbenchError
from workbench.study.config import BASELINE_BACKEND
from workbench.study.execution.local_executor import SITE, LocalExecutor
from workbench.study.execution.quality import write_split
from workbench.study.execution.timing_columns import size_columns
from workbench.study.plan.shapes import OperatingPoint, Shape
from workbench.study.plan.trials import Plan, Trial, planned
from workbench.study.results.quality_limits import hopeless
from workbench.study.results.schema import TrialRow, judged_on
from workbench.study.search.goals import Goals
from workbench.study.search.space import Proposal
from workbench.study.workers.process import OutOfTime
from workbench.study.workers.protocol import load_arrays
from workbench.study.workers.timing_client import EngineProcess
from workbench.tasks.trees import to_torch

_ON_ENGINE = "On this engine, on the validation split."
_SPLIT = "validation"


class SearchRun(LocalExecutor):
    """Carries out proposed trials one by one; use as a context manager.

    Its plan is that of :func:`search_plan`; other arguments are those of :class:`LocalExecutor`. With ``prune``, a
    trial whose variant or file is beyond hope of meeting the goals is not timed.
    """

    def __init__(self, *run: Any, goals: Goals, prune: bool, **options: Any) -> None:
        super().__init__(*run, **options)
        self._goals, self._prune = goals, prune
        self._seen = set(self._all.recipes)

    def __enter__(self) -> SearchRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state, reason = "cancelled", "Cancelled while it ran."
        if isinstance(error, OutOfTime):
            state, reason = "waiting", "Stopped while it ran: the time budget was used up."
        elif isinstance(error, WorkbenchError) and not isinstance(error, Cancelled):
            state, reason = "failed", f"The search stopped while it ran: {error}"
        self._run.leave(state, reason, kill=error is not None)

    def trial(self, proposal: Proposal) -> Trial:
        """Return the trial of a proposal."""
        base = self._all.baseline(OperatingPoint(proposal.batch_size, self._all.primary.shape))
        recipe = proposal.recipe if proposal.recipe.steps else base.recipe
        threads = proposal.threads or base.threads
        trial = planned(self._fingerprint, recipe, proposal.backend, base.point, threads, proposal.options)
        return base if trial.key == base.key else trial

    def baseline(self, trial: Trial) -> TrialRow:
        """Return the row of the trial's baseline; it exists once the trial was run."""
        return self._session.row(self._all.baseline(trial.point))

    def fits(self, trial: Trial) -> bool:
        """Return False if the time left is enough for a point without training but not for this one."""
        ready = self._prepared(trial) is not None
        return self._budget.fits(trial.recipe, prepared=ready) or not self._budget.fits(Recipe(), prepared=False)

    def do(self, trial: Trial) -> tuple[TrialRow, bool]:
        """Return the row of a trial, complete, pruned or failed, and True if it had to be run.

        OutOfTime and Cancelled leave the trial for the next run; StudyError if the baseline cannot be run.
        """
        self._stop.check()
        base = self._all.baseline(trial.point)
        pair = tuple(dict.fromkeys((base, trial)))
        others = tuple(point for point in self._all.points if point != trial.point)
        recipes = tuple(dict.fromkeys(t.recipe for t in pair))
        self._plan = Plan(pair, recipes, (trial.backend,), trial.point, others)
        self._session.extend(self._plan, self._plan.rows(self._task.name, self._fingerprint))
        if not self._session.missing(pair):
            return self._session.row(trial), False
        self._session.claim(pair)  # before the baseline, so that other searches see this claim
        for recipe in recipes:
            if recipe not in self._seen:
                self._seen.add(recipe)
                self._budget.add(recipe)
        self._run.do({SITE: self._plan})
        row = self._session.row(trial)
        if row["state"] not in ("complete", "pruned", "failed"):
            raise OutOfTime("The time budget does not allow another trial.")
        return row, True

    def make_ready(self) -> None:
        super().make_ready()
        write_split(self._task, self._inputs, _SPLIT)

    def _worth_timing(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Prune trials by validation quality and file size before they are timed."""
        return [t for t in trials if t.baseline or not self._prune or not self._pruned(t)]

    def _pruned(self, trial: Trial) -> bool:
        base = self._plan.baseline(trial.point)
        drop = self._prepared_drop(trial, base)
        size = size_columns(self._store.artifact(trial), trial.backend)
        reasons = []
        mine, quality = ((self._prepared(t) or {}).get("validation_quality") for t in (trial, base))
        limit, lost = self._goals.max_quality_drop, drop["validation_drop"]
        if mine is not None and not math.isfinite(mine):
            reasons.append(f"The metric of the variant is {mine} on the validation split.")
        if lost is not None and hopeless(lost, limit, quality=quality, samples=len(self._task.validation)):
            reasons.append(f"The variant loses {lost:.4g} on the validation split, and {limit:g} is accepted.")
        most = self._goals.max_size_mib
        if most is not None and size["size_mib"] is not None and size["size_mib"] > most:
            reasons.append(f"Its file has {size['size_mib']:.4g} MiB, and {most:g} are accepted.")
        if not reasons:
            return False
        self._pool.end([trial.key])
        prepared = self._prepared(trial) or {}
        columns = {name: prepared.get(name) for name in ("steps", "params", "macs", "prepare_s")}
        notes = {**drop.pop("notes"), **size.pop("notes")}
        self._session.prune(trial, " ".join(reasons), {**columns, **drop, **size, "notes": notes})
        return True

    def _validation(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        columns = self._validated(trial, arm, reference)
        if trial.threads != reference.trial.threads:
            columns["notes"]["threads"] = f"Its baseline ran on {reference.trial.threads} threads."
        return columns

    def _validated(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        """Measure the drop on the validation split, once per recipe and engine."""
        if trial.baseline:
            return _drop(0.0, "This is the baseline: its drop is 0 by definition.")
        for row in self._session.complete_rows():
            if judged_on(row) == trial.judged_on and row["notes"].get("validation_drop") == _ON_ENGINE:
                return _drop(row["validation_drop"], _ON_ENGINE)
        outputs = self._files / "outputs"
        base, mine = outputs / f"{_SPLIT}-{reference.trial.artifact_key}", outputs / f"{_SPLIT}-{trial.key}"
        if not (base / "tree.json").exists():
            reference.evaluate(base, self._session.following(f"validating {reference.trial.words}"), split=_SPLIT)
        arm.evaluate(mine, self._session.following(f"validating {trial.words}"), split=_SPLIT)
        try:
            before, after = (self._score(folder) for folder in (base, mine))
        except WorkbenchError as error:
            return _drop(None, str(error))
        finally:
            shutil.rmtree(mine)
        lost = before - after
        return _drop(lost, _ON_ENGINE) if math.isfinite(lost) else _drop(None, f"The metric is {after}.")

    def _score(self, folder: Path) -> float:
        return self._task.score(to_torch(load_arrays(folder, mmap=False)), _SPLIT)


def search_plan(fingerprint: str, batch_sizes: Sequence[int], *, threads: int, shape: Shape) -> Plan:
    """Return a plan of the baseline at every batch size; the first one is primary."""
    points = [OperatingPoint(size, shape) for size in batch_sizes]
    float_model = Recipe(name="float")
    trials = tuple(planned(fingerprint, float_model, BASELINE_BACKEND, point, threads) for point in points)
    return Plan(trials, (float_model,), (BASELINE_BACKEND,), points[0], tuple(points[1:]))


def _drop(value: float | None, note: str) -> dict[str, Any]:
    return {"validation_drop": value, "notes": {"validation_drop": note}}
