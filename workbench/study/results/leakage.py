"""Detect a float model that was trained on the validation split."""

from __future__ import annotations

import math

_WHOLE = 1e-3
"""Largest distance from a whole number of a count that went through float32."""
LEAKAGE = "Possible leakage"
"""Beginning of the warning."""


def leakage_warning(validation: float | None, evaluation: float | None, *, samples: tuple[int, int]) -> str | None:
    """Return a warning if a model scores better on the validation split than chance explains, else None.

    Only for shares of correct answers: on two independent splits with these ``samples`` they differ by more than 3
    standard errors in one case of 700.

    Examples
    --------
    >>> leakage_warning(0.99, 0.92, samples=(2000, 1000))[:16]
    'Possible leakage'
    >>> leakage_warning(0.93, 0.92, samples=(2000, 1000)) is None
    True
    """
    if validation is None or evaluation is None:
        return None
    if not all(_is_share(value, of) for value, of in zip((validation, evaluation), samples, strict=True)):
        return None
    share = (validation * samples[0] + evaluation * samples[1]) / sum(samples)
    error = math.sqrt(share * (1 - share) * (1 / samples[0] + 1 / samples[1]))
    if validation - evaluation <= 3 * error:
        return None
    return (
        f"{LEAKAGE}: the float model scores {validation:.4g} on the validation split and {evaluation:.4g} on the "
        "evaluation split, more than 3 standard errors apart. If it was trained on the validation split, pass "
        "validation=(inputs, targets) with unseen samples to the task."
    )


def _is_share(value: float, of: int) -> bool:
    """Return whether a metric may be a share of so many samples."""
    return 0 <= value <= 1 and abs(value * of - round(value * of)) < _WHOLE
