"""Read and export studies without their task, whose data and code may be elsewhere."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import StudyError
from workbench.study.recommend import recommendation
from workbench.study.results.merge import rows_of_task
from workbench.study.results.ranking import Recommendation, mark_recommended
from workbench.study.results.schema import TrialRow
from workbench.study.storage.database import Store
from workbench.study.storage.url import parse_url

if TYPE_CHECKING:
    from workbench.tasks.task import Task


def export_stored(
    storage: str,
    output: str | Path,
    *,
    study: str | None = None,
    task: Task | str | None = None,
    trial: str | None = None,
    quality_drop: float | None = None,
    trust: bool = False,
) -> Path:
    """Write the recommended variant of a study into a folder; as :meth:`Study.export`, but ``task`` is optional.

    ``study`` is the name, optional if the database has one study, or with ``task``. StudyError is raised if there is no
    such database or study, or as by :meth:`Study.export`.
    """
    from workbench.study.bundle.bundle import export_bundle

    _require_database(storage)
    if task is not None:
        from workbench.study.study import Study

        with Study(task, storage=storage, name=study) as opened:
            if not opened.rows():
                raise StudyError(_not_held(opened.task, storage))
            return opened.export(output, trial=trial, quality_drop=quality_drop, trust=trust)
    with contextlib.closing(Store(storage)) as store:
        rows, best = _answer(store, _named(store, storage, study), storage, quality_drop)
        return export_bundle(rows, best, output, files=store.files, trial=trial, task=None)


def stored_rows(
    storage: str, *, study: str | None = None, quality_drop: float | None = None
) -> tuple[list[TrialRow], Recommendation]:
    """Return the rows of a study, with ``recommended``, and its recommendation, without its task.

    ``study`` is the name, optional if the database has one study. Of a task that changed, the rows of its last version
    are returned. StudyError is raised if there is no such database or study, or it has no trial.
    """
    _require_database(storage)
    with contextlib.closing(Store(storage)) as store:
        rows, best = _answer(store, _named(store, storage, study), storage, quality_drop)
    return mark_recommended(rows, best), best


def _answer(store: Store, name: str, storage: str, quality_drop: float | None) -> tuple[list[TrialRow], Recommendation]:
    stored = store.load(name)
    if not stored:
        raise StudyError(f"{storage} holds no trial. Run the study first.")
    latest = max(stored.values(), key=lambda trial: trial.updated).row["task_fingerprint"]
    rows = rows_of_task(stored.values(), latest)
    return rows, recommendation(store, name, rows, quality_drop=quality_drop)


def _named(store: Store, storage: str, study: str | None) -> str:
    """Return ``study`` if it exists; without it the name of the only study."""
    names = store.studies()
    if study is not None:
        if study not in names:
            held = ", ".join(map(repr, names)) or "none"
            raise StudyError(f"{storage} holds no study {study!r}. It holds: {held}.")
        return study
    if len(names) != 1:
        if not names:
            raise StudyError(f"{storage} holds no study.")
        raise StudyError(f"{storage} holds the studies {', '.join(map(repr, names))}. Choose one by --name.")
    return names[0]


def _not_held(task: Task, storage: str) -> str:
    """Return the message for a database without rows of a task, with those that it has."""
    with contextlib.closing(Store(storage)) as store:
        rows = [(name, trial.row) for name in store.studies() for trial in store.load(name).values()]
    held = dict.fromkeys(f"{r['task']!r} (study {n!r}, fingerprint {r['task_fingerprint']})" for n, r in rows)
    return (
        f"{storage} holds no trial of the task {task.name!r} (fingerprint {task.fingerprint}) in a study of that name. "
        f"It holds those of {', '.join(held) or 'no task'}. Give --task the one that the study was run with."
    )


def _require_database(storage: str) -> None:
    """Refuse a missing file: opening it would make an empty study."""
    url = parse_url(storage)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise StudyError(f"{storage}: the file {url.database} does not exist. Check the address.")
