"""Tidy frames of a study's rows, the common input of its charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from workbench.core.errors import StudyError
from workbench.core.machine import fingerprint_id
from workbench.study.results.frame import row_params
from workbench.study.results.ranking import one_machine, usual_shape
from workbench.study.results.relative_latency import with_relative_latency
from workbench.study.results.schema import is_ranked

NUMBERS = (
    *("batch_size", "threads", "quality", "quality_drop", "quality_drop_low", "quality_drop_high"),
    *("latency_ms_rel", "latency_ms_rel_low", "latency_ms_rel_high", "latency_ms_p50", "latency_ms_low"),
    *("latency_ms_high", "throughput_per_s", "peak_rss_mib", "size_mib", "params", "macs"),
    *("speedup", "speedup_low", "speedup_high"),
)
TEXTS = ("task", "recipe", "recipe_id", "technique", "backend", "state", "verdict")


def rows_of(rows: Any) -> list[dict[str, Any]]:
    """Return the rows of a list of dicts, a DataFrame or a Study as a list of dicts; raise StudyError for others."""
    if isinstance(rows, pd.DataFrame):
        return [{str(k): None if v != v else v for k, v in row.items()} for row in rows.to_dict("records")]
    if callable(getattr(rows, "rows", None)):
        rows = rows.rows()
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise StudyError(f"Charts take rows (a list of dicts, a DataFrame or a Study), got {type(rows).__name__}.")
    return [dict(row) for row in rows]


def latency_rows(rows: Any) -> list[dict[str, Any]]:
    """Return the complete rows, each with its baseline-normalized latency."""
    complete = [row for row in rows_of(rows) if row.get("state", "complete") == "complete"]
    return with_relative_latency(complete)


def complete_frame(rows: Any, *, references: bool = False) -> pd.DataFrame:
    """Return the complete rows as a frame with every column of the charts; numbers are float, NaN if unknown.

    Only rows of one machine (this one, or the one with most rows) and of one shape (the one with most rows) are kept.
    Reference rows are left out unless ``references`` is True. ``ranked`` is False for references and survey rows, which
    are never on a Pareto front. ``reference`` is empty for other rows. Recipe parameters are columns such as
    ``params_prune_ratio``.
    """
    complete = [row for row in latency_rows(rows) if references or row.get("reference") is None]
    judged = [row for row in complete if row.get("quality") is not None] or complete  # bench rows have no quality
    same, _ = one_machine(judged, fingerprint_id())
    place = (same[0].get("fingerprint") if same else None, usual_shape(same))
    table = [row for row in complete if (row.get("fingerprint"), row["shape"]) == place]
    frame = pd.DataFrame({name: [row.get(name) for row in table] for name in TEXTS})
    for name in NUMBERS:
        frame[name] = pd.to_numeric(pd.Series([row.get(name) for row in table], dtype=object)).astype(float)
    frame["reference"] = [row.get("reference") or "" for row in table]
    frame["fidelity"] = [row["fidelity"] for row in table]
    frame["engine_json"] = [row["engine_json"] for row in table]
    frame["ranked"] = np.array([is_ranked(row) for row in table], dtype=bool)
    frame["recommended"] = np.array([row.get("recommended") is True for row in table], dtype=bool)
    frame["baseline"] = np.array([row["baseline"] for row in table], dtype=bool)
    params = pd.DataFrame([row_params(row) for row in table], index=frame.index)
    frame = frame.join(params)
    frame["quality_low"] = frame["quality"] - (frame["quality_drop_high"] - frame["quality_drop"])
    frame["quality_high"] = frame["quality"] + (frame["quality_drop"] - frame["quality_drop_low"])
    return frame


def at_batch_size(frame: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """Return the rows at ``batch_size`` if it was measured, else at the recommended row's, else at the largest one."""
    sizes = frame["batch_size"].dropna()
    if not sizes.empty and not (sizes == batch_size).any():
        best = frame.loc[frame["recommended"], "batch_size"].dropna()
        batch_size = int(best.iloc[0] if len(best) else sizes.max())
    return frame[frame["batch_size"] == batch_size]


def pareto_mask(cost: Iterable[float], gain: Iterable[float]) -> npt.NDArray[np.bool_]:
    """Return a mask of the Pareto front: minimal ``cost``, maximal ``gain``.

    NaN is never on the front; equal points all are.

    Examples
    --------
    >>> pareto_mask([1, 2, 3], [0.5, 0.9, 0.8]).tolist()
    [True, True, False]
    """
    x, y = np.asarray(list(cost), dtype=float), np.asarray(list(gain), dtype=float)
    finite = ~(np.isnan(x) | np.isnan(y))
    no_worse = (x[None, :] <= x[:, None]) & (y[None, :] >= y[:, None])
    better = (x[None, :] < x[:, None]) | (y[None, :] > y[:, None])
    beaten = (no_worse & better & finite[None, :]).any(axis=1)
    return np.asarray(finite & ~beaten, dtype=bool)


def front_mask(frame: pd.DataFrame, cost: str, gain: str = "quality") -> npt.NDArray[np.bool_]:
    """Return a mask of the Pareto front of the ranked rows."""
    return pareto_mask(frame[cost].where(frame["ranked"]), frame[gain])


def front(frame: pd.DataFrame, cost: str, gain: str = "quality") -> pd.DataFrame:
    """Return the distinct Pareto points, sorted by cost."""
    points = frame[pareto_mask(frame[cost], frame[gain])]
    return points.drop_duplicates([cost, gain]).sort_values(cost)


def why_empty(rows: Any, what: str) -> str:
    """Return the reason for an empty chart."""
    table = rows_of(rows)
    if not table:
        return f"No trials yet: {what} appears here when the first one is complete."
    states = Counter(str(row.get("state")) for row in table)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    if "complete" in states:
        return f"No complete trial has {what} ({counts})."
    error = next((row["error"] for row in table if row.get("state") == "failed" and row.get("error")), "")
    first = f" The first error: {error}" if error else ""
    return f"No trial is complete ({counts}), so there is no {what} to draw.{first}"
