"""The folder that a winner is handed over in: its artefact, the engine that won, a page in words, and a program."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.atomic_folder import replacing_folder
from workbench.artifact.manifest import FILES, MANIFEST
from workbench.core.checks import given, require_path
from workbench.core.errors import ArtifactError, StudyError
from workbench.core.untrusted import safe_path
from workbench.engine.backends import runs_module
from workbench.engine.config import InferenceConfig
from workbench.study.bundle.readme import page, program
from workbench.study.results.ranking import Recommendation
from workbench.study.results.schema import TrialRow, row_options, row_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.tasks.task import Task

ENGINE, PAGE, PROGRAM = "engine.json", "README.md", "run.py"
INSTEAD = "onnxruntime"
"""What a folder names where the row ran on torch, which needs the task's code and is not in a small install."""


def hand_over(
    rows: Sequence[TrialRow],
    best: Recommendation,
    output: str | Path,
    *,
    files: Path,
    trial: str | None,
    task: Task | None,
    trust: bool = False,
) -> Path:
    """Write the winner, or the row that ``trial`` names, into ``output``; see :meth:`Study.export`."""
    folder = require_path("Study.export: output", output)
    row, reason = _chosen(rows, best, trial)
    _refuse_foreign(folder)
    with _artifact(row, files, task, trust) as (artifact, remade):
        if artifact.onnx_path is None:
            raise StudyError(
                f"{row['recipe']} has no ONNX file, which a machine without torch needs: {artifact.export_error} "
                "Export another row: --trial takes the trial_key of one that ran on onnxruntime or openvino."
            )
        with replacing_folder(folder) as temporary:
            for name in (*artifact.manifest["files"], MANIFEST):
                shutil.copyfile(artifact.folder / name, temporary / name)
            options = engine_options(row)
            _write(temporary / ENGINE, json.dumps(options, indent=1) + "\n")
            _write(temporary / PROGRAM, program(artifact.io))
            _write(temporary / PAGE, page(row, artifact, reason=reason, runs_on=options["backend"], remade=remade))
    open_artifact(folder)
    return folder


def _refuse_foreign(folder: Path) -> None:
    """Refuse an artefact's folder with files that would be lost: the whole folder is replaced."""
    try:
        named = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        written = {*FILES, *named, MANIFEST, ENGINE, PAGE, PROGRAM}
    except (FileNotFoundError, NotADirectoryError):  # no artefact: replacing_folder says whether it may be written
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a damaged one may be replaced too
        written = {*FILES, MANIFEST, ENGINE, PAGE, PROGRAM}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in written)
    if foreign:
        raise ArtifactError(
            f"{folder} holds files that no export wrote, and they would be lost: {', '.join(foreign)}. Move them "
            "away, or choose another folder; nothing was changed."
        )


def engine_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the :class:`InferenceConfig` that a row was measured with, on a backend without torch.

    Where another backend stands in, the options of its own are left behind.
    """
    options = row_options(row)
    if runs_module(row["backend"]):
        options = {"backend": INSTEAD, "batch_size": row["batch_size"], "threads": row["threads"]}
    config = InferenceConfig(**options)
    return {
        **options,
        "backend": config.backend,
        "batch_size": config.batch_size,
        "threads": config.threads,
        "precision": config.precision.compute,
    }


def _chosen(rows: Sequence[TrialRow], best: Recommendation, trial: str | None) -> tuple[TrialRow, str]:
    if trial is None:
        if best.row is None or not best.met:
            raise StudyError(
                f"There is no winner to export. {best.reason} Allow a larger --quality-drop, or name a row by its "
                "trial_key with --trial."
            )
        return best.row, best.reason
    if not isinstance(trial, str) or not trial:
        raise StudyError(f"Study.export: trial must be the trial_key of a row, got {given(trial)}.")
    found = [row for row in rows if row["state"] == "complete" and row["trial_key"].startswith(trial)]
    if len(found) != 1:
        known = ", ".join(
            f"{row['trial_key']} ({row['recipe']} on {row['backend']} at batch {row['batch_size']})"
            for row in (found or rows)
            if row["state"] == "complete"
        )
        what = "is the beginning of several trial keys" if found else "is no trial_key of a finished row"
        raise StudyError(f"{trial!r} {what}. There are: {known or 'none'}.")
    return found[0], "It was chosen by its trial key, not by the study."


@contextmanager
def _artifact(row: TrialRow, files: Path, task: Task | None, trust: bool) -> Iterator[tuple[Artifact, bool]]:
    """Yield the artefact of a row, and whether it had to be made again, which needs the task."""
    kept = safe_path(files / "artifacts", row["artifact_key"], error=StudyError)
    own = safe_path(files / "artifacts", f"{kept.name}-b{row['batch_size']}", error=StudyError)  # if its batch is fixed
    try:
        found = open_artifact(own if own.is_dir() else kept)
        _require_same(found, row)
    except ArtifactError as error:
        if task is None:
            raise StudyError(
                f"The artefact of {row['recipe']} is not among the study's files any more ({error}) Give the task "
                "(--task), and it is made again from its recipe."
            ) from error
    else:
        yield found, False
        return
    with tempfile.TemporaryDirectory(prefix="workbench-export-") as folder:
        yield _made_again(row, Path(folder) / "artifact", task, trust), True


def _require_same(artifact: Artifact, row: TrialRow) -> None:
    """Raise StudyError if an artifact is of another recipe or task than its row."""
    made = (artifact.manifest["recipe_id"], artifact.manifest["task"].get("fingerprint"))
    if made != (row["recipe_id"], row["task_fingerprint"]):
        raise StudyError(
            f"The artefact {artifact.folder} is of recipe {given(made[0])} and task {given(made[1])}, and the row of "
            f"{given(row['recipe_id'])} and {given(row['task_fingerprint'])}. Do not use this study's files."
        )


def _made_again(row: TrialRow, folder: Path, task: Task, trust: bool) -> Artifact:
    from workbench.artifact.cache import PrefixCache

    variant = row_recipe(row, trust=trust).apply(task, cache=PrefixCache(task))
    return variant.save(folder, batch=row["batch_size"])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
