"""From what was timed to a finished row: judge quality once, take what preparing told, keep the samples."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import StudyError, TrialFailed
from workbench.core.files import is_disk_full
from workbench.study.execution.quality import QUALITY, judge
from workbench.study.execution.timing_columns import (
    NoiseFloors,
    baseline_columns,
    save_samples,
    shape_notes,
    size_columns,
    timed_columns,
)
from workbench.study.execution.timing_pool import EngineProcess, GroupTiming
from workbench.study.plan.shapes import task_shape
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.leakage import seen_note
from workbench.study.results.schema import judged_on
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.session import RunSession

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_IN_TORCH = "Of the variant in torch, on the validation split."


class Finishing:
    """The half of a run that completes rows."""

    _task: Task
    _plan: Plan
    _ledger: RunSession
    _files: Path
    _shelf: ArtifactStore
    _noise: NoiseFloors

    def _finish(self, trial: Trial, timed: GroupTiming, base: Trial) -> None:
        """Complete one row of a group, or fail it."""
        if trial.key in timed.failed:
            self._ledger.fail([trial], str(timed.failed[trial.key]))
            return
        arm, reference = timed.arms[trial.key], timed.arms[base.key]
        mine, theirs = (timed.rounds.timed[a.name] for a in (arm, reference))
        noise = self._noise.of(base)
        if trial.baseline:
            columns = baseline_columns(arm, mine, noise, timed.rounds)
        else:
            columns = timed_columns(arm, mine, theirs, noise, timed=timed.rounds)
        try:
            quality = self._quality(trial, arm, reference)
            validation = self._validation(trial, arm, reference)
        except TrialFailed as error:
            self._ledger.fail([trial], f"The evaluation failed: {error}")
            self._stop_if_full(error)
            return
        prepared = self._prepared(trial) or {}
        columns["baseline_key"] = base.key
        size = size_columns(self._shelf.artifact(trial), trial.backend)
        found = (columns, quality, size, validation)
        notes = {name: words for part in found for name, words in part.pop("notes").items()} | prepared.get("notes", {})
        known = {name: prepared.get(name) for name in ("steps", "params", "macs", "prepare_s")}
        notes |= shape_notes(trial, task_shape(self._task))
        if trial.baseline:
            sizes = len(self._task.validation), len(self._task.evaluation)
            seen = seen_note(prepared.get("validation_quality"), quality["quality"], samples=sizes)
            notes |= {} if seen is None else {"validation_drop": seen}
            if trial.point in self._plan.baseline_notes:
                notes["threads"] = self._plan.baseline_notes[trial.point]
        samples = save_samples(self._files / "samples", mine, theirs)
        self._ledger.complete(
            trial, {**columns, **quality, **size, **validation, **known, "samples": samples, "notes": notes}
        )

    def _validation(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        """Return the drop on the validation split with its note: that of preparing, since it costs nothing more."""
        return self._prepared_drop(trial, self._plan.baseline(trial.point))

    def _prepared_drop(self, trial: Trial, base: Trial) -> dict[str, Any]:
        mine, theirs = ((self._prepared(t) or {}).get("validation_quality") for t in (trial, base))
        if mine is None or theirs is None:
            return {"validation_drop": None, "notes": {"validation_drop": "What preparing told is no longer kept."}}
        if not math.isfinite(theirs - mine):
            return {"validation_drop": None, "notes": {"validation_drop": f"The metric is {mine} on the variant."}}
        return {"validation_drop": theirs - mine, "notes": {"validation_drop": _IN_TORCH}}

    def _quality(self, trial: Trial, arm: EngineProcess, reference: EngineProcess) -> dict[str, Any]:
        """Quality on the engine that was timed: evaluated once per recipe and backend, shared by the batch sizes."""
        if trial.reference is not None and trial.backend == reference.trial.backend:
            base = self._ledger.row(reference.trial)
            notes = {"quality": "That of the baseline, which is the same model in the same runtime."}
            return {**{name: base[name] for name in QUALITY}, "notes": notes}  # type: ignore[literal-required]
        for row in self._ledger.complete_rows():
            if judged_on(row) == trial.judged_on and row["quality"] is not None:
                notes = {name: row["notes"][name] for name in QUALITY if name in row["notes"]}
                notes["quality"] = f"Measured at batch {row['batch_size']} on the same backend."
                return {**{name: row[name] for name in QUALITY}, "notes": notes}  # type: ignore[literal-required]
        baseline = self._files / "outputs" / f"baseline-{reference.trial.artifact_key}"
        if trial.baseline or not (baseline / "tree.json").exists():
            self._evaluate(reference, baseline)
        outputs = baseline if trial.baseline else self._files / "outputs" / trial.key
        if not trial.baseline:
            self._evaluate(arm, outputs)
        quality = judge(self._task, outputs, baseline).columns()
        if not trial.baseline:
            shutil.rmtree(outputs)
        return quality

    def _evaluate(self, arm: EngineProcess, outputs: Path) -> None:
        words = f"evaluating {arm.trial.words}"
        self._ledger.say(words)
        arm.evaluate(outputs, self._ledger.following(words))

    def _stop_if_full(self, error: TrialFailed) -> None:
        """End the run where a child could not write: every other trial would fail in the same way."""
        if is_disk_full(str(error)):
            raise StudyError(
                f"The disk of {self._files} is full: {error} Free some space and run again; what is complete is kept."
            ) from error

    def _prepared(self, trial: Trial) -> dict[str, Any] | None:
        return self._shelf.prepared(trial, self._plan.batch_sizes)
