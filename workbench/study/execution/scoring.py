"""The columns of a finished row: timing, quality, preparation, and samples."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import StudyError
from workbench.core.files import is_disk_full
from workbench.study.execution.quality import QUALITY, judge
from workbench.study.execution.timing_columns import (
    NoiseFloor,
    baseline_columns,
    save_samples,
    shape_notes,
    size_columns,
    timed_columns,
)
from workbench.study.execution.timing_pool import GroupTiming
from workbench.study.plan.shapes import task_shape
from workbench.study.plan.trials import Plan, Trial
from workbench.study.results.quality_limits import leakage_warning
from workbench.study.results.schema import judged_on
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.storage.session import RunSession
from workbench.study.workers.timing_client import EngineProcess

if TYPE_CHECKING:
    from workbench.tasks.task import Task

PREPARED = ("steps", "params", "macs", "prepare_s")
_IN_TORCH = "Of the variant in torch, on the validation split."


def finished_columns(
    trial: Trial,
    base: Trial,
    timed: GroupTiming,
    floor: NoiseFloor,
    *,
    task: Task,
    plan: Plan,
    store: ArtifactStore,
    files: Path,
    quality: dict[str, Any],
    validation: dict[str, Any],
) -> dict[str, Any]:
    """Return the columns of a trial that was timed, given those of quality and of the drop on the validation split."""
    arm, mine, theirs = timed.arms[trial.key], timed.blocks(trial), timed.blocks(base)
    if trial.baseline:
        columns = baseline_columns(arm, mine, floor, timed.rounds)
    else:
        columns = timed_columns(arm, mine, theirs, floor, timed=timed.rounds)
    prepared = store.prepared(trial, plan.batch_sizes) or {}
    parts = (columns, quality, size_columns(store.artifact(trial), trial.backend), validation)
    notes = {name: note for part in parts for name, note in part["notes"].items()} | prepared.get("notes", {})
    notes |= shape_notes(trial, task_shape(task))
    if trial.baseline:
        sizes = len(task.validation), len(task.evaluation)
        warning = leakage_warning(prepared.get("validation_quality"), quality["quality"], samples=sizes)
        notes |= {} if warning is None else {"validation_drop": warning}
        if trial.point in plan.baseline_notes:
            notes["threads"] = plan.baseline_notes[trial.point]
    merged = {name: value for part in parts for name, value in part.items()}
    merged |= {name: prepared.get(name) for name in PREPARED}
    samples = save_samples(files / "samples", mine, theirs)
    return {**merged, "baseline_key": base.key, "samples": samples, "notes": notes}


def quality_columns(
    trial: Trial, arm: EngineProcess, reference: EngineProcess, *, task: Task, session: RunSession, files: Path
) -> dict[str, Any]:
    """Return quality on the engine that was timed: evaluated once per recipe and backend, shared by all points."""
    if trial.reference is not None and trial.backend == reference.trial.backend:
        base = session.row(reference.trial)
        return _copied(base, {"quality": "That of the baseline, which is the same model in the same runtime."})
    for row in session.complete_rows():
        if judged_on(row) == trial.judged_on and row["quality"] is not None:
            notes = {name: row["notes"][name] for name in QUALITY if name in row["notes"]}
            return _copied(row, {**notes, "quality": f"Measured at batch {row['batch_size']} on the same backend."})
    baseline = files / "outputs" / f"baseline-{reference.trial.artifact_key}"
    if trial.baseline or not (baseline / "tree.json").exists():
        _evaluate(reference, baseline, session)
    if trial.baseline:
        return judge(task, baseline, baseline).columns()
    outputs = files / "outputs" / trial.key
    _evaluate(arm, outputs, session)
    columns = judge(task, outputs, baseline).columns()
    shutil.rmtree(outputs)
    return columns


def _copied(row: Mapping[str, Any], notes: dict[str, str]) -> dict[str, Any]:
    return {**{name: row[name] for name in QUALITY}, "notes": notes}


def _evaluate(arm: EngineProcess, outputs: Path, session: RunSession) -> None:
    words = f"evaluating {arm.trial.words}"
    session.notify(words)
    arm.evaluate(outputs, session.following(words))


def validation_columns(mine: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the drop on the validation split from the preparation metadata of a trial and of its baseline."""
    quality, reference = ((prepared or {}).get("validation_quality") for prepared in (mine, base))
    if quality is None or reference is None:
        return {"validation_drop": None, "notes": {"validation_drop": "Preparation metadata is missing."}}
    if not math.isfinite(reference - quality):
        return {"validation_drop": None, "notes": {"validation_drop": f"The metric is {quality} on the variant."}}
    return {"validation_drop": reference - quality, "notes": {"validation_drop": _IN_TORCH}}


def raise_if_disk_full(error: Exception, files: Path) -> None:
    """Raise StudyError if a worker could not write: every other trial would fail in the same way."""
    if is_disk_full(str(error)):
        raise StudyError(f"The disk of {files} is full: {error} Free some space and run again.") from error
