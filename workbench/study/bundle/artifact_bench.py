"""Time one artifact on this machine on every backend that runs it; a study on another machine can merge the rows.

Torch is needed only for torch backends.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.manifest import recipe_of
from workbench.core.errors import TrialFailed
from workbench.core.machine import describe_machine, fingerprint_id
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.export.io import rebuild_inputs
from workbench.measure.comparison.noise import machine_floor
from workbench.study.bundle.bench_request import BenchRequest
from workbench.study.execution.budget import TimeBudget
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.execution.quality import QUALITY
from workbench.study.execution.timing_columns import (
    NoiseFloor,
    baseline_columns,
    shape_notes,
    size_columns,
    timed_columns,
)
from workbench.study.execution.timing_pool import GroupTiming, measure_footprints, open_arms, time_arms
from workbench.study.plan.shapes import OperatingPoint, Shape, own_shape, shape_words
from workbench.study.plan.trials import Trial, artifact_key, trial_key
from workbench.study.results.relative_latency import with_relative_latency
from workbench.study.results.schema import TrialRow, explained, new_row, update_row
from workbench.study.workers.process import CancelToken
from workbench.study.workers.protocol import examples_folder, save_arrays
from workbench.study.workers.timing_client import EngineProcess, TimingSetup

if TYPE_CHECKING:
    from workbench.tasks.task import Task

GROUP_S = 6.0
"""Most seconds that the backends are timed at one batch size and shape."""
_QUALITY = "Quality needs the task and its data: run a study with them on this machine."
_SPEEDUP = "The speedup needs the float model in torch eager, timed interleaved on this machine: run a study here."
NOTES = {
    **dict.fromkeys(QUALITY, _QUALITY),
    "validation_drop": _QUALITY,
    "prepare_s": "The artifact existed already.",
    "candidates": "One artifact was timed, and none was judged.",
    "samples": "A bench keeps no raw samples.",
}


def bench_artifact(
    artifact: Artifact | str | Path,
    *,
    backends: Sequence[str] | None = None,
    batch_sizes: Sequence[int] | None = None,
    threads: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    data: str | Path | None = None,
    task: Task | None = None,
    trust: bool = False,
    progress: ProgressCallback = ignore_progress,
    on_row: Callable[[TrialRow], object] | None = None,
) -> list[TrialRow]:
    """Time an artifact on each backend, batch size and shape, in interleaved processes; return the rows.

    Parameters
    ----------
    artifact : Artifact or path
        A folder written by ``variant.save(folder)`` or ``workbench export``.
    backends : sequence of str, optional
        By default those of onnxruntime and openvino that run here, and torch-eager if ``task`` is given.
    batch_sizes : sequence of int, optional
        1, 8 and 32 by default; the model's own if its batch is fixed.
    threads : int, optional
        Threads of every backend; by default the physical cores that this process may use.
    shapes : dict of sequences of int, optional
        Sizes of the dynamic dimensions besides the batch: ``{"sequence": [16, 64]}``; several are taken together,
        position by position. The samples are cut or repeated to these sizes, and stay as they are by default.
    data : path, optional
        An .npz file with an array ``[n, ...]`` for each input, by its name; by default the artifact's own samples.
        Fewer samples than a batch are repeated.
    task : Task, optional
        The task that the artifact was made for; torch backends need its ``build``.
    trust : bool
        Torch backends may read the artifact's program, a format that can run code: only for your own folders.
    on_row : callable, optional
        Called with each row as soon as it is complete, so that Ctrl-C loses no earlier row.

    Returns
    -------
    list of TrialRow
        In the columns of a study. Quality is None, because it needs the task. If a backend cannot run the artifact,
        its row has the state ``failed`` and the reason under ``error``.

    Raises
    ------
    ArtifactError, ConfigError, BackendUnavailable
        Before any work, if the artifact is damaged, or an argument is not valid.

    Examples
    --------
    >>> rows = bench_artifact("artifacts/prune-0.5", batch_sizes=(1, 32))  # doctest: +SKIP
    >>> [(row["backend"], row["batch_size"], row["latency_ms_p50"]) for row in rows]  # doctest: +SKIP
    [('onnxruntime', 1, 0.41), ('openvino', 1, 0.33), ('onnxruntime', 32, 6.2), ('openvino', 32, 5.1)]
    """
    opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    request = BenchRequest.of(opened, backends, batch_sizes, threads, shapes, data, task, trust)
    rows: list[TrialRow] = []
    own = own_shape(request.samples.inputs, request.dims)
    total = len(request.backends) * len(request.points)
    replica = NoiseFloor(machine_floor())
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder:
        files = Path(folder)
        setup = TimingSetup(files, files / "inputs", lambda _: opened.folder, request.build, CancelToken(), trust=trust)
        for point in request.points:
            inputs = rebuild_inputs(opened.io.kind, opened.io.input_names, request.inputs(point))
            save_arrays(inputs, examples_folder(setup.inputs, point))
            trials = _planned(opened, request, point)
            notify = functools.partial(_notify, progress, f"batch {point.words}", len(rows), total)
            with machine_lock(exclusive=True, stop=setup.stop, notify=notify):
                timed = _time(trials, setup, notify)
            for row in with_relative_latency([_row(opened, trial, timed, own, replica) for trial in trials]):
                rows.append(row)  # type: ignore[arg-type]
                if on_row is not None:
                    on_row(rows[-1])
    progress(Progress("bench", total, total, "done"))
    return rows


def _notify(progress: ProgressCallback, where: str, done: int, total: int, words: str) -> None:
    progress(Progress("bench", done, total, f"{where}: {words}"))


def _planned(artifact: Artifact, request: BenchRequest, point: OperatingPoint) -> list[Trial]:
    """Return the trials at one point, the baseline first."""
    manifest = artifact.manifest
    recipe = recipe_of(artifact.folder, manifest)
    versions, dot = manifest["versions"], bool(manifest["machine"].get("int8_dot"))
    made = artifact_key(manifest["recipe_id"], str(manifest["task"].get("fingerprint")), versions, int8_dot=dot)
    trials = [
        Trial(
            key=trial_key(made, backend, point, request.threads, measured="bench"),
            recipe=recipe,
            name=recipe.name or recipe.label,
            backend=backend,
            batch_size=point.batch,
            threads=request.threads,
            artifact_key=made,
            baseline=not recipe.steps and backend == "torch-eager",
            shape=point.shape,
        )
        for backend in request.backends
    ]
    return sorted(trials, key=lambda trial: not trial.baseline)


def _time(trials: Sequence[Trial], setup: TimingSetup, notify: Callable[[str], None]) -> GroupTiming:
    """Time trials of one point in turns; the first that lives is the reference of how long is enough."""
    failed: dict[str, TrialFailed] = {}
    started: dict[str, EngineProcess] = {}
    try:
        notify(f"loading {', '.join(trial.backend for trial in trials)}")
        for trial in trials:
            started[trial.key] = EngineProcess.start(trial, setup)
        arms = open_arms(started, failed)
        while True:
            try:
                rounds = time_arms(
                    list(arms.values()), rounds=TimeBudget.rounds, block_s=TimeBudget.block_s, budget_s=GROUP_S,
                    after_round=lambda number: notify(f"round {number}"),
                )  # fmt: skip
                break
            except TrialFailed as error:  # the reference is lost: the others go on without it
                lost = next(iter(arms))
                failed[lost] = error
                del arms[lost]
        failed |= rounds.lost
        arms = measure_footprints({name: arm for name, arm in arms.items() if name not in failed}, failed)
        return GroupTiming(rounds, arms, failed)
    finally:
        for arm in started.values():
            arm.end()


def _row(artifact: Artifact, trial: Trial, timed: GroupTiming, own: Shape, replica: NoiseFloor) -> TrialRow:
    manifest = artifact.manifest
    row = new_row(
        **{name: manifest[name] for name in ("recipe_id", "technique", "params", "macs", "steps")},
        **{name: getattr(trial, name) for name in ("backend", "batch_size", "threads", "baseline", "artifact_key")},
        task=str(manifest["task"].get("name")),
        task_fingerprint=str(manifest["task"].get("fingerprint")),
        recipe=trial.name,
        recipe_json=trial.recipe.to_json(),
        shape=shape_words(trial.shape),
        trial_key=trial.key,
        fingerprint=fingerprint_id(),
        machine=describe_machine(),
        notes=NOTES,
    )
    if trial.key in timed.failed:
        return update_row(row, state="failed", error=str(timed.failed[trial.key]))
    arm, mine = timed.arms[trial.key], timed.rounds.timed[trial.key]
    base_key = next((key for key, other in timed.arms.items() if other.trial.baseline), None)
    if trial.baseline:
        columns = baseline_columns(arm, mine, replica, timed.rounds)
    elif base_key is not None:
        columns = timed_columns(arm, mine, timed.rounds.timed[base_key], replica, timed=timed.rounds)
    else:
        unknown = dict.fromkeys(("speedup", "speedup_low", "speedup_high", "verdict", "baseline_key"))
        columns = {**timed_columns(arm, mine, mine, replica, timed=timed.rounds), **unknown}
        columns["notes"] |= dict.fromkeys(unknown, _SPEEDUP)
    columns["baseline_key"] = base_key
    size = size_columns(artifact.folder, trial.backend)
    notes = {**columns.pop("notes"), **size.pop("notes"), **shape_notes(trial, own)}
    return explained(update_row(row, **columns, **size, state="complete", notes=notes))
