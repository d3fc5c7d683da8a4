"""What compressing cost against what it saves: after how many samples the seconds are earned back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BreakEven:
    """When the seconds spent on a variant are earned back by its faster calls.

    Attributes
    ----------
    spent_s : float
        Seconds of preparing the variant: training, calibration and export. Steps that were taken from the cache of
        finished beginnings count with what they took when they were made.
    saved_ms : float
        Milliseconds that a call saves against the baseline, by the baseline-normalised latency.
    calls, samples : float
        How many calls, and samples in them, save what was spent.
    """

    spent_s: float
    saved_ms: float
    calls: float
    samples: float


def break_even(row: Mapping[str, Any]) -> BreakEven | None:
    """Return the break-even of a finished row, None if it has no decided speedup or was not measured.

    Counts this row's own preparation only, not that of the other variants that were tried.

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
