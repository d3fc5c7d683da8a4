"""Export a trial as a folder: its artifact, the options of its engine, and a README and a program from templates."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.atomic_folder import replacing_folder
from workbench.artifact.manifest import FILES, MANIFEST
from workbench.core.checks import given, require_path
from workbench.core.errors import ArtifactError, StudyError
from workbench.core.format.numbers import interval, number
from workbench.core.format.speedup import row_speedup
from workbench.core.machine import INT8_DOT
from workbench.core.untrusted import code_span, escape_markdown, one_line, safe_path
from workbench.engine.backends import runs_module
from workbench.engine.config import InferenceConfig
from workbench.export.io import IOSpec
from workbench.study.plan.recipes import row_recipe
from workbench.study.results.ranking import Recommendation
from workbench.study.results.schema import TrialRow, row_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.tasks.task import Task

ENGINE, PAGE, PROGRAM = "engine.json", "README.md", "run.py"
TORCH_FREE = "onnxruntime"
"""Backend of a folder whose row ran on torch: torch needs the task's code and is not part of the extra ``runtime``."""

FIGURES = {
    "latency, baseline-normalized": ("latency_ms_rel", " ms", "latency_ms_rel"),
    "latency as timed, median": ("latency_ms_p50", " ms", "latency_ms"),
    "throughput": ("throughput_per_s", " samples/s", ""),
    "speedup over the original": ("speedup", "", ""),
    "quality, the task's metric": ("quality", "", ""),
    "quality drop": ("quality_drop", "", "quality_drop"),
    "agreement with the float model": ("agreement", " %", ""),
    "peak memory of the process": ("peak_rss_mib", " MiB", ""),
    "memory on the GPU": ("gpu_memory_mib", " MiB", ""),
    "energy per sample above idle": ("energy_mj_per_sample", " mJ", ""),
    "load time": ("load_ms", " ms", ""),
    "compile time": ("compile_ms", " ms", ""),
    "first call": ("first_call_ms", " ms", ""),
}
"""Rows of the table: the column, its unit, and the beginning of the columns of its 95 % CI."""


def export_bundle(
    rows: Sequence[TrialRow],
    best: Recommendation,
    output: str | Path,
    *,
    files: Path,
    trial: str | None,
    task: Task | None,
    trust: bool = False,
) -> Path:
    """Write the recommended row, or the one named by ``trial``, into ``output``; see :meth:`Study.export`."""
    folder = require_path("Study.export: output", output)
    row, reason = _chosen(rows, best, trial)
    _refuse_foreign(folder)
    with _artifact(row, files, task, trust) as (artifact, remade):
        if artifact.onnx_path is None:
            raise StudyError(
                f"A bundle needs an ONNX file, and {row['recipe']} has none: {artifact.export_error} "
                "Export another row with --trial: one that ran on onnxruntime or openvino."
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
    """Raise ArtifactError if the folder holds files that no export wrote: the whole folder is replaced."""
    try:
        named = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        written = {*FILES, *named, MANIFEST, ENGINE, PAGE, PROGRAM}
    except (FileNotFoundError, NotADirectoryError):  # not an artifact: replacing_folder checks it
        return
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a damaged one may be replaced too
        written = {*FILES, MANIFEST, ENGINE, PAGE, PROGRAM}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in written)
    if foreign:
        raise ArtifactError(
            f"Files in {folder} that no export wrote would be lost: {', '.join(foreign)}. Move them away, or choose "
            "another folder."
        )


def engine_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the row's :class:`InferenceConfig`, on a backend without torch.

    If the row ran on torch, its options for that backend are left out.
    """
    options = row_options(row)
    if runs_module(row["backend"]):
        options = {"backend": TORCH_FREE, "batch_size": row["batch_size"], "threads": row["threads"]}
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
                f"No row meets the goal, so none is exported. {best.reason} Allow a larger --quality-drop, or name a "
                "row with --trial."
            )
        return best.row, best.reason
    if not isinstance(trial, str) or not trial:
        raise StudyError(f"Study.export: trial must be the trial_key of a row, got {given(trial)}.")
    complete = [row for row in rows if row["state"] == "complete"]
    matches = [row for row in complete if row["trial_key"].startswith(trial)]
    if len(matches) != 1:
        keys = ", ".join(
            f"{row['trial_key']} ({row['recipe']} on {row['backend']} at batch {row['batch_size']})"
            for row in (matches or complete)
        )
        problem = "is the beginning of several keys" if matches else "is not the key of a finished row"
        raise StudyError(f"trial_key {trial!r} {problem}. Choose one of: {keys or 'none'}.")
    return matches[0], "It was chosen by its trial key, not by the study."


@contextmanager
def _artifact(row: TrialRow, files: Path, task: Task | None, trust: bool) -> Iterator[tuple[Artifact, bool]]:
    """Yield the artifact of a row, and True if it was made again, which needs the task."""
    kept = safe_path(files / "artifacts", row["artifact_key"], error=StudyError)
    own = safe_path(files / "artifacts", f"{kept.name}-b{row['batch_size']}", error=StudyError)  # if its batch is fixed
    try:
        artifact = open_artifact(own if own.is_dir() else kept)
        _require_same(artifact, row)
    except ArtifactError as error:
        if task is None:
            raise StudyError(
                f"The artifact of {row['recipe']} cannot be read from the study's files ({error}) Give the task "
                "(--task) to make it again from its recipe."
            ) from error
    else:
        yield artifact, False
        return
    with tempfile.TemporaryDirectory(prefix="workbench-export-") as folder:
        yield _made_again(row, Path(folder) / "artifact", task, trust), True


def _require_same(artifact: Artifact, row: TrialRow) -> None:
    """Raise StudyError if an artifact is of another recipe or task than its row."""
    made = (artifact.manifest["recipe_id"], artifact.manifest["task"].get("fingerprint"))
    if made != (row["recipe_id"], row["task_fingerprint"]):
        raise StudyError(
            f"The artifact {artifact.folder} must be of recipe {given(row['recipe_id'])} and task "
            f"{given(row['task_fingerprint'])}, got {given(made[0])} and {given(made[1])}. Do not use these files."
        )


def _made_again(row: TrialRow, folder: Path, task: Task, trust: bool) -> Artifact:
    from workbench.artifact.cache import PrefixCache

    variant = row_recipe(row, trust=trust).apply(task, cache=PrefixCache(task))
    return variant.save(folder, batch=row["batch_size"])


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def page(row: Mapping[str, Any], artifact: Artifact, *, reason: str, runs_on: str, remade: bool) -> str:
    """Return the README; ``runs_on`` is the backend in ``engine.json``, another than the row's if that is torch."""
    io = artifact.io
    open_dims = [*io.axes, *(["any"] if any(None in spec.shape and not spec.axes for spec in io.inputs) else [])]
    return _MARKDOWN.get_template("bundle_readme.md.j2").render(
        row=row,
        manifest=artifact.manifest,
        io=io,
        open_dims=open_dims,
        mib=artifact.manifest["files"]["model.onnx"]["bytes"] / 2**20,
        figures=_figures(row),
        instructions=Markup(instruction_words(artifact.manifest)),
        reason=reason,
        runs_on=runs_on,
        remade=remade,
    )


def program(io: IOSpec) -> str:
    """Return a program that runs its folder with the extra ``runtime`` alone."""
    arrays = [f'stored["input_{index}"]' for index in range(len(io.inputs))]
    if io.kind == "dict":
        pairs = ", ".join(f"{spec.name!r}: {name}" for spec, name in zip(io.inputs, arrays, strict=True))
        inputs = f"{{{pairs}}}"
    else:
        inputs = arrays[0] if io.kind == "tensor" else f"({', '.join(arrays)},)"
    return _PYTHON.get_template("run.py.j2").render(io=io, inputs=inputs)


def instruction_words(manifest: Mapping[str, Any]) -> str:
    """Return the instruction sets that a model was made for, and what to check on a CPU that has others."""
    dots = sorted(INT8_DOT.intersection(manifest["machine"].get("isa") or ()))
    return _MARKDOWN.get_template("instructions.md.j2").render(manifest=manifest, dots=dots).rstrip("\n")


def _figures(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a row that are known, by their names in the table."""
    figures = {}
    for name, (column, unit, start) in FIGURES.items():
        value = row.get(column)
        if column == "speedup" and row.get("baseline"):  # its interval is the noise of two equal processes
            figures[name] = f"none: this is the original on {row['backend']}, which the others are compared with"
        elif value is not None and column == "speedup":
            figures[name] = str(row_speedup(row))
        elif value is not None:
            ci = interval(row.get(f"{start}_low"), row.get(f"{start}_high"), 4)
            shown = number(100 * value if unit == " %" else value, 4)
            figures[name] = f"{shown}{unit} (95 % CI {ci})" if ci else f"{shown}{unit}"
    return figures


def _escape(value: Any) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape_markdown(value))


def _environment(**options: Any) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, **options
    )
    made.filters |= {
        "count": lambda value: f"{value:,}",
        "number": lambda value: number(value, 4),
        "code": lambda value: Markup(code_span(value)),
        "one_line": one_line,
    }
    return made


_MARKDOWN = _environment(autoescape=True, finalize=_escape)
_PYTHON = _environment()
