"""Break-even of a compressed variant: the number of samples after which its preparation has paid off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BreakEven:
    """The break-even of a variant: when its faster calls have saved the seconds that it took.

    Attributes
    ----------
    spent_s : float
        Seconds of training, calibration and export. Steps from the prefix cache count with their original time.
    saved_ms : float
        Milliseconds saved per call against the baseline, by the baseline-normalized latency.
    calls, samples : float
        Number of calls, and of samples in them, to the break-even.
    """

    spent_s: float
    saved_ms: float
    calls: float
    samples: float


def break_even(row: Mapping[str, Any]) -> BreakEven | None:
    """Return the break-even of a finished row, None if it has no decided speedup or was not measured.

    Only the preparation of this row counts, not that of other variants.

    Examples
    --------
    >>> row = {"latency_ms_rel": 2.0, "speedup": 5.0, "prepare_s": 80.0, "batch_size": 32, "verdict": "faster"}
    >>> break_even(row).samples
    320000.0
    """
    latency, ratio, prepared = (row.get(name) for name in ("latency_ms_rel", "speedup", "prepare_s"))
    if row.get("baseline") or row.get("verdict") != "faster" or not latency or not ratio or prepared is None:
        return None
    spent = max(prepared, sum(step.get("seconds") or 0.0 for step in row.get("steps") or ()))
    saved = latency * (ratio - 1)
    calls = 1e3 * spent / saved
    return BreakEven(float(spent), saved, calls, calls * row["batch_size"])
