"""Studies: trials of a question, each in a process of its own, kept in a database, resumed, cancelled, answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

_FACE = {
    "Best": "workbench.study.answers",
    "Merged": "workbench.study.merge",
    "bench_artifact": "workbench.study.artifact_bench",
    "Job": "workbench.study.job",
    "RunSummary": "workbench.study.run",
    "Spread": "workbench.study.spread",
    "Study": "workbench.study.study",
    "COLUMNS": "workbench.study.rows",
    "STATES": "workbench.study.rows",
    "TrialRow": "workbench.study.rows",
    "default_recipes": "workbench.study.defaults",
}

__all__ = [
    "COLUMNS",
    "STATES",
    "Best",
    "Job",
    "Merged",
    "RunSummary",
    "Spread",
    "Study",
    "TrialRow",
    "bench_artifact",
    "default_recipes",
]

if TYPE_CHECKING:
    from workbench.study.answers import Best
    from workbench.study.artifact_bench import bench_artifact
    from workbench.study.defaults import default_recipes
    from workbench.study.job import Job
    from workbench.study.merge import Merged
    from workbench.study.rows import COLUMNS, STATES, TrialRow
    from workbench.study.run import RunSummary
    from workbench.study.spread import Spread
    from workbench.study.study import Study


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'workbench.study' has no attribute {name!r}")
    value = attribute(_FACE[name], name)
    globals()[name] = value
    return value
