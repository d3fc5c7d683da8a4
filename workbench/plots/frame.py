"""From a study's rows to tidy frames: what every chart starts with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from workbench.core.errors import StudyError
from workbench.core.machine import fingerprint_id
from workbench.study.answers import comparable, one_machine, usual_shape

BASELINE_BACKEND = "torch-eager"
NUMBERS = (
    "batch_size",
    "quality",
    "quality_drop",
    "quality_drop_low",
    "quality_drop_high",
    "latency_ms_p50",
    "latency_ms_low",
    "latency_ms_high",
    "throughput_per_s",
    "peak_rss_mib",
    "size_mib",
    "params",
    "macs",
    "speedup",
    "speedup_low",
    "speedup_high",
)
WORDS = ("task", "recipe", "recipe_id", "technique", "backend", "state")


def rows_of(rows: Any) -> list[dict[str, Any]]:
    """Return rows as a list of dicts, whether they came as dicts, as a DataFrame or as a Study.

    Raises
    ------
    StudyError
        If ``rows`` is none of these.
    """
    if isinstance(rows, pd.DataFrame):
        return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]
    if callable(getattr(rows, "rows", None)):
        rows = rows.rows()
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise StudyError(f"Charts take rows (a list of dicts, a DataFrame or a Study), got {type(rows).__name__}.")
    return [dict(row) for row in rows]


def complete_frame(rows: Any) -> pd.DataFrame:
    """Return the complete rows as a frame with every column that charts use; numbers are float, NaN where unknown.

    Only those of one machine: this one, or, where it has none, the one with most rows; and of one shape, the one with
    most rows.
    ``certain_ms`` is the latency that rows are compared by: see :func:`workbench.study.answers.comparable`.
    """
    complete = [row for row in rows_of(rows) if row.get("state", "complete") == "complete"]
    judged = [row for row in complete if row.get("quality") is not None] or complete  # a bench's rows choose nothing
    same, _ = one_machine(judged, fingerprint_id())
    wanted = (same[0].get("fingerprint") if same else None, usual_shape(same))
    table = [row for row in complete if (row.get("fingerprint"), row.get("shape") or "") == wanted]
    frame = pd.DataFrame({name: [row.get(name) for row in table] for name in WORDS})
    for name in NUMBERS:
        frame[name] = pd.to_numeric(pd.Series([row.get(name) for row in table], dtype=object)).astype(float)
    certain = pd.Series(comparable(table, "latency_ms_p50"), dtype=object)
    frame["certain_ms"] = pd.to_numeric(certain).astype(float)
    frame["recommended"] = np.array([row.get("recommended") is True for row in table], dtype=bool)
    frame["baseline"] = np.array([is_baseline(row) for row in table], dtype=bool)
    frame["quality_low"] = frame["quality"] - (frame["quality_drop_high"] - frame["quality_drop"])
    frame["quality_high"] = frame["quality"] + (frame["quality_drop"] - frame["quality_drop_low"])
    return frame


def is_baseline(row: Mapping[str, Any]) -> bool:
    """Say whether a row is the original model in torch eager, whose rows may lack the ``baseline`` column."""
    return bool(row.get("baseline", row.get("technique") == "float" and row.get("backend") == BASELINE_BACKEND))


def choose_batch(frame: pd.DataFrame, wanted: int) -> int:
    """Return ``wanted`` where it was measured, else the recommended row's batch, else the largest one."""
    sizes = frame["batch_size"].dropna()
    if sizes.empty or (sizes == wanted).any():
        return wanted
    best = frame.loc[frame["recommended"], "batch_size"].dropna()
    return int(best.iloc[0] if len(best) else sizes.max())


def pareto_mask(cost: Iterable[float], gain: Iterable[float]) -> npt.NDArray[np.bool_]:
    """Say for each point whether no other is at least as good in both and better in one.

    ``cost`` is better when lower, ``gain`` when higher; NaN is never on the front; equal points both are.

    Examples
    --------
    >>> pareto_mask([1, 2, 3], [0.5, 0.9, 0.8]).tolist()
    [True, True, False]
    """
    x, y = np.asarray(list(cost), dtype=float), np.asarray(list(gain), dtype=float)
    known = ~(np.isnan(x) | np.isnan(y))
    no_worse = (x[None, :] <= x[:, None]) & (y[None, :] >= y[:, None])
    better = (x[None, :] < x[:, None]) | (y[None, :] > y[:, None])
    beaten = (no_worse & better & known[None, :]).any(axis=1)
    return np.asarray(known & ~beaten, dtype=bool)


def front(frame: pd.DataFrame, cost: str, gain: str = "quality") -> pd.DataFrame:
    """Return the Pareto points sorted by cost, one for each place."""
    points = frame[pareto_mask(frame[cost], frame[gain])]
    return points.drop_duplicates([cost, gain]).sort_values(cost)


def why_empty(rows: Any, what: str) -> str:
    """Return the sentence that an empty chart shows: why there is nothing to draw."""
    states = [str(row.get("state")) for row in rows_of(rows)]
    if not states:
        return f"No trials yet: {what} appears here when the first one is complete."
    failed = [str(row.get("error")) for row in rows_of(rows) if row.get("state") == "failed" and row.get("error")]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    first = f" The first error: {failed[0]}" if failed else ""
    if "complete" in states:
        return f"No complete trial has {what} ({counts})."
    return f"No trial is complete ({counts}), so there is no {what} to draw.{first}"
