"""Rows that come from elsewhere: read from a file, checked, and told apart from what this study has timed itself."""

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

_RAW = "The raw samples stay where it was timed."


@dataclass(frozen=True)
class MergeSummary:
    """What :meth:`Study.merge` did: rows that are new, that replaced an older one, and that were there already.

    ``left_out`` counts those that are not finished; ``machines`` says whose figures came in.
    """

    added: int
    replaced: int
    known: int
    left_out: int
    machines: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.added} rows added", f"{self.replaced} replaced", f"{self.known} known already"]
        if self.left_out:
            parts.append(f"{self.left_out} left out, since they are not finished")
        return f"{', '.join(parts)}; measured on {'; '.join(self.machines)}"


def merge_rows(store: Store, study: str, task: Task, rows: str | Path | Iterable[Mapping[str, Any]]) -> MergeSummary:
    """Take finished rows of a task into a study; see :meth:`Study.merge`."""
    source, found = _read(rows)
    checked = [_checked(row, f"{source}, row {number}", task) for number, row in enumerate(found, 1)]
    finished = {row["trial_key"]: row for row in checked if row["state"] == "complete"}
    if not finished:
        raise StudyError(f"{source} holds no finished row, so there is nothing to merge.")
    added, replaced = store.merge(study, finished)
    machines = dict.fromkeys(f"{row['machine']} ({row['fingerprint']})" for row in finished.values())
    known = len(finished) - added - replaced
    return MergeSummary(added, replaced, known, len(checked) - len(finished), tuple(machines))


def rows_of_task(stored: Iterable[StoredTrial], task_fingerprint: str) -> list[TrialRow]:
    """Return the rows of a task; of several with the same settings the one that knows most, then the newest.

    There are several where libraries were updated, or where a row was measured here and merged from elsewhere too.
    They come in the order of one plan, though several runs and merges may have written them.
    """
    best: dict[tuple[Any, ...], tuple[tuple[bool, bool, bool, float], TrialRow]] = {}
    for trial in stored:
        row = trial.row
        if row["task_fingerprint"] != task_fingerprint:
            continue
        settings = (
            row["recipe_id"],
            row["backend"],
            row["batch_size"],
            row["shape"],
            row["threads"],
            row["engine_json"],
            row["fingerprint"],
            row["reference"],
        )
        whole = row["fidelity"] != "survey"
        rank = (whole, row["samples"] is not None, row["quality"] is not None, trial.updated)
        if settings not in best or best[settings][0] < rank:
            best[settings] = (rank, row)
    rows = _in_order([row for _, row in best.values()])
    judged = {judged_on(r) for r in rows if r["quality"] is not None and r["reference"] is None}
    counted = [{**row, "candidates": len(judged)} for row in rows]
    return with_relative_latency(counted)  # type: ignore[return-value]


def _in_order(rows: list[TrialRow]) -> list[TrialRow]:
    """Return rows as a plan has them: batch 32 first, then from large to small; shapes, recipes and backends in turn.

    The latter three come in the order in which they first stand in ``rows``, the float model first.
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
            f"Study.merge takes the path of a file that `workbench bench --output` wrote, or rows; got {given(rows)}."
        )
    return "the rows given", list(rows)


def _from_file(path: Path) -> Sequence[Any]:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text"
        raise StudyError(f"Cannot read the rows in {path}: {said}.") from error
    number = 0
    try:
        if text.startswith("["):  # what --json printed
            found: list[Any] = json.loads(text, parse_constant=_refuse)
            return found
        lines = []
        for number, line in enumerate(text.splitlines(), 1):  # noqa: B007 - told where it stops
            lines.append(json.loads(line, parse_constant=_refuse))
        return lines
    except (ValueError, RecursionError) as error:
        where = f"line {number} of {path}" if number else str(path)
        raise StudyError(
            f"{where} is no row: {error}. Give a file that `workbench bench --output` or a report (trials.jsonl) wrote."
        ) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number that a row may hold")


def _checked(row: Any, where: str, task: Task) -> TrialRow:
    row = checked_row(row, where)
    if row["task_fingerprint"] != task.fingerprint:
        raise StudyError(
            f"{where} is of the task {row['task']!r} with the fingerprint {row['task_fingerprint']}, and this "
            f"study is of {task.name!r} with {task.fingerprint}: data, float weights or version differ, so that "
            "the figures do not belong together. Open the study with that task."
        )
    computed: dict[str, Any] = {"recommended": False, "candidates": None, **dict.fromkeys(LATENCY_COLUMNS)}
    if row["samples"] is not None:
        computed |= {"samples": None, "notes": {"samples": _RAW}}
    return update_row(row, **computed)
