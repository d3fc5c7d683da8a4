"""Compare the outputs of two runtimes for the same inputs. numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FLOAT_TOLERANCE = 1e-3
"""Largest difference of a float model, as a fraction of the reference's largest value."""

QUANTIZED_ERROR = 0.1
"""Largest root mean square error of a quantized model, as a fraction of the reference's standard deviation.

The reference simulates the same integers, so only ties of rounding and the order of sums differ: a few percent. Engines
that computed something else were off by 15 % and more.
"""
_MIN_SPREAD = 0.1
"""Lower bound of the standard deviation, as a fraction of the reference's largest value: a constant has none."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Comparison of outputs with their reference.

    ``share`` is ``max_abs_diff`` over the reference's largest absolute value; ``problem`` is the reason if they differ
    too much, or None.
    """

    max_abs_diff: float
    share: float
    problem: str | None


def compare_outputs(
    reference: Sequence[Array], outputs: Sequence[Array], *, quantized: bool = False, tolerance: float | None = None
) -> Agreement:
    """Compare flat outputs with the reference.

    The largest difference may be ``tolerance`` (default 0.001) of the reference's largest value. For a quantized model
    without ``tolerance``, the limit is a root mean square error of :data:`QUANTIZED_ERROR`.
    """
    if len(reference) != len(outputs):
        return _different(f"{len(outputs)} outputs instead of {len(reference)}")
    worst = Agreement(0.0, 0.0, None)
    for index, (want, got) in enumerate(zip(reference, outputs, strict=True)):
        one = _compare(np.asarray(want), np.asarray(got), quantized, tolerance)
        problem = worst.problem or (f"output {index}: {one.problem}" if one.problem else None)
        worst = Agreement(max(worst.max_abs_diff, one.max_abs_diff), max(worst.share, one.share), problem)
    return worst


def _different(problem: str) -> Agreement:
    return Agreement(float("inf"), float("inf"), problem)


def _compare(want: Array, got: Array, quantized: bool, tolerance: float | None) -> Agreement:
    if want.shape != got.shape:
        return _different(f"shape {list(got.shape)} instead of {list(want.shape)} for the same inputs")
    if not want.size:
        return Agreement(0.0, 0.0, None)
    a, b = want.astype(np.float64), got.astype(np.float64)
    odd = ~np.isfinite(a)
    if not np.array_equal(odd, ~np.isfinite(b)):
        return _different("NaN or infinite values differ from the reference's")
    diff = np.where(odd, 0.0, a - np.where(odd, 0.0, b)) if odd.any() else a - b
    largest, scale = float(np.abs(diff).max()), float(np.abs(a[~odd]).max()) if not odd.all() else 0.0
    share = largest / scale if scale > 0 else (0.0 if largest == 0 else float("inf"))
    return Agreement(largest, share, _problem(a[~odd], diff[~odd], share, quantized, tolerance))


def _problem(reference: Array, diff: Array, share: float, quantized: bool, tolerance: float | None) -> str | None:
    if tolerance is None and quantized:
        spread = float(reference.std()) if reference.size > 1 else float(np.abs(reference).max(initial=0.0))
        error = float(np.sqrt(np.mean(diff**2))) if diff.size else 0.0
        spread = max(spread, _MIN_SPREAD * float(np.abs(reference).max(initial=0.0)), 1e-12)
        if error <= QUANTIZED_ERROR * spread:
            return None
        return (
            f"root mean square error {error:.3g} from the simulation of the same integers, {error / spread:.0%} of its "
            f"standard deviation (allowed: {QUANTIZED_ERROR:.0%})"
        )
    limit = FLOAT_TOLERANCE if tolerance is None else tolerance
    if share <= limit:
        return None
    return f"largest difference is {share:.2g} of the reference's largest value, allowed is {limit:g}"
