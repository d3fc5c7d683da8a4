"""How far two runtimes' outputs for the same inputs are apart. numpy only, never torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

FLOAT_TOLERANCE = 1e-3
"""Largest difference of a float model, as a share of the reference's largest value."""

QUANTIZED_ERROR = 0.1
"""Largest root mean square error of a quantized model, as a share of the reference's own spread.

The reference is the simulation of the same integers, so only ties of rounding and the order of sums may differ: a few
percent of the spread. Engines that were seen to compute something else were off by 15 % and more.
"""
_NARROW = 0.1
"""A spread counts as at least this share of the reference's largest value: a constant has none."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How outputs compare with their reference.

    ``max_abs_diff`` in the outputs' own unit, ``share`` the same over the reference's largest absolute value,
    ``problem`` says in words why they do not agree, or is None.
    """

    max_abs_diff: float
    share: float
    problem: str | None


def compare_outputs(
    reference: Sequence[np.ndarray[Any, Any]],
    outputs: Sequence[np.ndarray[Any, Any]],
    *,
    quantized: bool = False,
    tolerance: float | None = None,
) -> Agreement:
    """Compare flat outputs with the reference.

    A float model agrees when the largest difference is at most ``tolerance`` (default 0.001) of the reference's
    range. A quantized model is held to that only when ``tolerance`` is given; else it must be finite and its root
    mean square error at most :data:`QUANTIZED_ERROR` of the reference's spread.
    """
    if len(reference) != len(outputs):
        return Agreement(float("inf"), float("inf"), f"{len(outputs)} outputs instead of {len(reference)}")
    worst = Agreement(0.0, 0.0, None)
    for index, (want, got) in enumerate(zip(reference, outputs, strict=True)):
        one = _compare(np.asarray(want), np.asarray(got), quantized, tolerance)
        problem = worst.problem or (f"output {index}: {one.problem}" if one.problem else None)
        worst = Agreement(max(worst.max_abs_diff, one.max_abs_diff), max(worst.share, one.share), problem)
    return worst


def _compare(
    want: np.ndarray[Any, Any], got: np.ndarray[Any, Any], quantized: bool, tolerance: float | None
) -> Agreement:
    if want.shape != got.shape:
        return Agreement(
            float("inf"), float("inf"), f"shape {list(got.shape)} instead of {list(want.shape)} for the same inputs"
        )
    if not want.size:
        return Agreement(0.0, 0.0, None)
    a, b = want.astype(np.float64), got.astype(np.float64)
    odd = ~np.isfinite(a)
    if not np.array_equal(odd, ~np.isfinite(b)):
        return Agreement(float("inf"), float("inf"), "NaN or infinite where the reference is finite, or the reverse")
    diff = np.where(odd, 0.0, a - np.where(odd, 0.0, b)) if odd.any() else a - b
    largest, scale = float(np.abs(diff).max()), float(np.abs(a[~odd]).max()) if not odd.all() else 0.0
    share = largest / scale if scale > 0 else (0.0 if largest == 0 else float("inf"))
    return Agreement(largest, share, _problem(a[~odd], diff[~odd], share, quantized, tolerance))


def _problem(
    reference: np.ndarray[Any, Any], diff: np.ndarray[Any, Any], share: float, quantized: bool, tolerance: float | None
) -> str | None:
    if tolerance is None and quantized:
        spread = float(reference.std()) if reference.size > 1 else float(np.abs(reference).max(initial=0.0))
        error = float(np.sqrt(np.mean(diff**2))) if diff.size else 0.0
        spread = max(spread, _NARROW * float(np.abs(reference).max(initial=0.0)), 1e-12)
        if error <= QUANTIZED_ERROR * spread:
            return None
        return (
            f"root mean square error {error:.3g} from the simulation of the same integers, {error / spread:.0%} of its "
            f"spread (allowed: {QUANTIZED_ERROR:.0%})"
        )
    limit = FLOAT_TOLERANCE if tolerance is None else tolerance
    if share <= limit:
        return None
    return f"largest difference is {share:.2g} of the reference's largest value, allowed is {limit:g}"
