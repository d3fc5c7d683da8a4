"""Studies: trials of a question, each in a process of its own, kept in a database, resumed, cancelled, answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

_FACE = {
    "Best": "workbench.study.results.ranking",
    "Cluster": "workbench.study.cluster.connection",
    "ClusterSummary": "workbench.study.cluster.summary",
    "Merged": "workbench.study.results.merge",
    "bench_artifact": "workbench.study.bundle.artifact_bench",
    "Job": "workbench.study.execution.job",
    "RunSummary": "workbench.study.execution.summary",
    "Spread": "workbench.study.execution.seed_variance",
    "Study": "workbench.study.study",
    "COLUMNS": "workbench.study.results.schema",
    "STATES": "workbench.study.results.schema",
    "TrialRow": "workbench.study.results.schema",
    "default_recipes": "workbench.study.plan.default_recipes",
    "Goals": "workbench.study.search.goals",
    "History": "workbench.study.search.history",
    "SearchResult": "workbench.study.search.result",
    "Space": "workbench.study.search.space",
    "between": "workbench.study.search.domain",
    "choice": "workbench.study.search.domain",
    "maybe": "workbench.study.search.domain",
    "vary": "workbench.study.search.domain",
}

__all__ = [
    "COLUMNS",
    "STATES",
    "Best",
    "Cluster",
    "ClusterSummary",
    "Goals",
    "History",
    "Job",
    "Merged",
    "RunSummary",
    "SearchResult",
    "Space",
    "Spread",
    "Study",
    "TrialRow",
    "bench_artifact",
    "between",
    "choice",
    "default_recipes",
    "maybe",
    "vary",
]

if TYPE_CHECKING:
    from workbench.study.bundle.artifact_bench import bench_artifact
    from workbench.study.cluster.connection import Cluster
    from workbench.study.cluster.summary import ClusterSummary
    from workbench.study.execution.job import Job
    from workbench.study.execution.seed_variance import Spread
    from workbench.study.execution.summary import RunSummary
    from workbench.study.plan.default_recipes import default_recipes
    from workbench.study.results.merge import Merged
    from workbench.study.results.ranking import Best
    from workbench.study.results.schema import COLUMNS, STATES, TrialRow
    from workbench.study.search.domain import between, choice, maybe, vary
    from workbench.study.search.goals import Goals
    from workbench.study.search.history import History
    from workbench.study.search.result import SearchResult
    from workbench.study.search.space import Space
    from workbench.study.study import Study


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'workbench.study' has no attribute {name!r}")
    value = attribute(_FACE[name], name)
    globals()[name] = value
    return value
