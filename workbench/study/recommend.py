"""Recommend a row of a study by the question of its last run or search."""

from __future__ import annotations

from workbench.core.machine import fingerprint_id
from workbench.study.results.ranking import Recommendation, best_row
from workbench.study.results.relative_latency import LATENCY
from workbench.study.results.schema import TrialRow
from workbench.study.search.api import stored_question
from workbench.study.search.goals import recommend
from workbench.study.storage.database import Store
from workbench.study.storage.last_run import last_run


def recommendation(
    store: Store,
    study: str,
    rows: list[TrialRow],
    *,
    quality_drop: float | None = None,
    minimize: str | None = None,
    batch_size: int | None = None,
    shape: str | None = None,
) -> Recommendation:
    """Return the recommended row; what is None is as in the study's last run or search. See :meth:`Study.best`."""
    searched, machine = stored_question(store, study), fingerprint_id()
    if searched is not None and (quality_drop, minimize, batch_size, shape) == (None,) * 4:
        return recommend(rows, searched, machine=machine)
    drop = store.accepted_drop(study, quality_drop)
    if (minimize, batch_size, shape) == (None,) * 3:
        rows, batch_size = last_run(store, study).among(rows)
    column = minimize or LATENCY
    return best_row(rows, quality_drop=drop, minimize=column, batch_size=batch_size, shape=shape, machine=machine)
