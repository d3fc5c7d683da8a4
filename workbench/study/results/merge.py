"""Merge rows that were measured elsewhere, and select the rows of a task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from workbench.core.checks import given
from workbench.core.errors import StudyError
from workbench.study.config import PRIMARY_BATCH
from workbench.study.results.relative_latency import COLUMNS as LATENCY_COLUMNS, with_relative_latency
from workbench.study.results.schema import TrialRow, checked_row, judged_on, update_row

if TYPE_CHECKING:
    from workbench.study.storage.database import Store, StoredTrial
    from workbench.tasks.task import Task

_SETTINGS = ("recipe_id", "backend", "batch_size", "shape", "threads", "engine_json", "fingerprint", "reference")
_RAW = "The raw samples are on the machine of the measurement."


@dataclass(frozen=True)
class MergeSummary:
    """Numbers of rows that :meth:`Study.merge` has added, replaced, found unchanged and skipped as unfinished."""

    added: int
    replaced: int
    unchanged: int
    skipped: int
    machines: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.added} rows added", f"{self.replaced} replaced", f"{self.unchanged} unchanged"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped because they are not finished")
        return f"{', '.join(parts)}; measured on {'; '.join(self.machines)}"


def merge_rows(store: Store, study: str, task: Task, rows: str | Path | Iterable[Mapping[str, Any]]) -> MergeSummary:
    """Add finished rows of a task to a study; see :meth:`Study.merge`."""
    source, read = _read(rows)
    checked = [_checked(row, f"{source}, row {number}", task) for number, row in enumerate(read, 1)]
    finished = {row["trial_key"]: row for row in checked if row["state"] == "complete"}
    if not finished:
        raise StudyError(f"{source} must hold a finished row to merge, got {len(checked)} unfinished ones.")
    added, replaced = store.merge(study, finished)
    machines = dict.fromkeys(f"{row['machine']} ({row['fingerprint']})" for row in finished.values())
    unchanged = len(finished) - added - replaced
    return MergeSummary(added, replaced, unchanged, len(checked) - len(finished), tuple(machines))


def rows_of_task(stored: Iterable[StoredTrial], task_fingerprint: str) -> list[TrialRow]:
    """Return the rows of a task in the order of a plan.

    Of several rows with the same settings, after an update of libraries or a merge, the one with most columns is kept,
    of equals the newest.
    """
    best: dict[tuple[Any, ...], tuple[tuple[bool, bool, bool, float], TrialRow]] = {}
    for trial in stored:
        row = trial.row
        if row["task_fingerprint"] != task_fingerprint:
            continue
        settings = tuple(row[name] for name in _SETTINGS)  # type: ignore[literal-required]
        rank = (row["fidelity"] != "survey", row["samples"] is not None, row["quality"] is not None, trial.updated)
        if settings not in best or best[settings][0] < rank:
            best[settings] = (rank, row)
    rows = _in_order([row for _, row in best.values()])
    judged = {judged_on(r) for r in rows if r["quality"] is not None and r["reference"] is None}
    counted = [{**row, "candidates": len(judged)} for row in rows]
    return with_relative_latency(counted)  # type: ignore[return-value]


def _in_order(rows: list[TrialRow]) -> list[TrialRow]:
    """Return rows as in a plan: batch 32 first, then the largest; then shapes, recipes and backends as in ``rows``.

    The float model comes first.
    """
    names = ("shape", "recipe_id", "backend", "fingerprint")
    ahead: list[Mapping[str, Any]] = sorted(rows, key=lambda row: (row["technique"] != "float", not row["baseline"]))
    ranks = {name: {value: i for i, value in enumerate(dict.fromkeys(r[name] for r in ahead))} for name in names}

    def place(row: Mapping[str, Any]) -> tuple[Any, ...]:
        size = row["batch_size"]
        return size != PRIMARY_BATCH, -size, *(ranks[name][row[name]] for name in names)

    return sorted(rows, key=place)


def _read(rows: Any) -> tuple[str, Sequence[Any]]:
    if isinstance(rows, str | Path):
        return str(rows), _from_file(Path(rows))
    if not isinstance(rows, Iterable) or isinstance(rows, Mapping | bytes):
        raise StudyError(
            f"rows must be the path of a file from `workbench bench --output`, or rows, got {given(rows)}."
        )
    return "the rows given", list(rows)


def _from_file(path: Path) -> Sequence[Any]:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise StudyError(f"Cannot read the rows in {path}: {reason}.") from error
    number = 0
    try:
        if text.startswith("["):  # from --json
            rows: list[Any] = json.loads(text, parse_constant=_refuse)
            return rows
        lines = []
        for number, line in enumerate(text.splitlines(), 1):  # noqa: B007 - the last one is in the error
            lines.append(json.loads(line, parse_constant=_refuse))
        return lines
    except (ValueError, RecursionError) as error:
        where = f"line {number} of {path}" if number else str(path)
        raise StudyError(
            f"{where} is not a row: {error}. Give a file from `workbench bench --output`, or a report's trials.jsonl."
        ) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a valid number of a row")


def _checked(row: Any, where: str, task: Task) -> TrialRow:
    row = checked_row(row, where)
    if row["task_fingerprint"] != task.fingerprint:
        raise StudyError(
            f"{where} must be of the task {task.name!r} with fingerprint {task.fingerprint}, got {row['task']!r} with "
            f"{row['task_fingerprint']}: data, float weights or version differ. Open a study of that task."
        )
    computed: dict[str, Any] = {"recommended": False, "candidates": None, **dict.fromkeys(LATENCY_COLUMNS)}
    if row["samples"] is not None:
        computed |= {"samples": None, "notes": {"samples": _RAW}}
    return update_row(row, **computed)
