"""What a study keeps of a task that ships with the workbench, so that a finished run is answered without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.core.errors import StudyError
from workbench.core.progress import Progress, ProgressCallback
from workbench.core.untrusted import parsed
from workbench.study.execution.summary import RunSummary
from workbench.study.plan.shapes import Shape, shapes_of, task_shape
from workbench.study.plan.trials import Plan, plan_for
from workbench.study.results.merge import rows_of_task
from workbench.study.results.schema import TrialRow
from workbench.study.storage.database import Store
from workbench.study.workers.baseline import with_earlier_baseline
from workbench.tasks.known import BUILTIN

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.tasks.task import Task

_SETTING = "task"


@dataclass(frozen=True)
class Remembered:
    """What a plan needs of a task: its fingerprint, the names of its open dimensions, and their own sizes."""

    fingerprint: str
    axes: tuple[str, ...]
    own: Shape

    @classmethod
    def of(cls, task: Task) -> Remembered:
        """Return it of a task that is loaded."""
        axes = dict.fromkeys(axis for dims in task.open_dims for axis in dims.values())
        return cls(task.fingerprint, tuple(axes), task_shape(task))


def is_builtin(task: object) -> bool:
    """Say whether a task was given by the name of one that ships."""
    return isinstance(task, str) and task.strip() in BUILTIN


def recall(store: Store, study: str, key: str | None) -> Remembered | None:
    """Return what a study has kept of the task with this key, None where it was none or another one."""
    known = None if key is None else store.setting(study, _SETTING)
    if known is None:
        return None
    kept_key, found = parsed(f"The setting {_SETTING!r} of {study!r}", known, _kept, error=StudyError)
    return found if kept_key == key else None


def _kept(known: Mapping[str, Any]) -> tuple[str, Remembered]:
    own = tuple((str(name), int(size)) for name, size in known["own"])
    return known["key"], Remembered(str(known["fingerprint"]), tuple(map(str, known["axes"])), own)


def remember(store: Store, study: str, key: str, found: Remembered) -> None:
    """Keep what is known of a task that ships, once it is loaded and checked."""
    kept = {"key": key, "fingerprint": found.fingerprint, "axes": list(found.axes), "own": list(map(list, found.own))}
    if store.setting(study, _SETTING) != kept:
        store.set_setting(study, _SETTING, kept)


def finished_plan(
    known: Remembered,
    store: Store,
    study: str,
    recipes: Sequence[Recipe] | None,
    backends: Sequence[str] | None,
    batch_sizes: Sequence[int],
    *,
    threads: int | None,
    budget_s: float | None,
    shapes: Mapping[str, Sequence[int]] | None,
    baseline: str,
    references: Sequence[str],
) -> tuple[Plan, list[TrialRow]] | None:
    """Return the plan of what is asked for with its rows, where all of them are complete; None where work is left."""
    points = shapes_of(shapes, known.axes, whose="the task's", own=known.own)
    asked = (known.fingerprint, recipes, backends, batch_sizes)
    more: dict[str, Any] = {"baseline": baseline, "references": references, "finished": True}
    plan = plan_for(*asked, threads=threads, budget_s=budget_s, shapes=points, **more)
    plan, _ = with_earlier_baseline(plan, rows_of_task(store.load(study).values(), known.fingerprint))
    rows = complete_rows(store, study, plan)
    return None if rows is None else (plan, rows)


def complete_rows(store: Store, study: str, plan: Plan) -> list[TrialRow] | None:
    """Return the rows of a plan, None where one is missing or not complete."""
    found = store.load(study, [trial.key for trial in plan.trials])
    rows = [trial.row for trial in found.values() if trial.state == "complete"]
    return rows if len(rows) == len(plan.trials) else None


def tell_finished(plan: Plan, rows: Sequence[TrialRow], seconds: float, progress: ProgressCallback) -> RunSummary:
    """Report a plan that is complete already, as a run of it does."""
    values: dict[str, Any] = {"plan": list(rows)}
    progress(Progress("study", len(rows), len(rows), plan.words(), values))
    return RunSummary(0, len(rows), 0, 0, cancelled=False, seconds=seconds)
