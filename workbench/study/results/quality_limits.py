"""Decisions from the quality on small splits, with their standard errors: limits, hopeless trainings, leakage."""

from __future__ import annotations

import math

_SHRINKS = ((0.85, 0.5), (0.7, 0.2), (0.5, 0.07))
"""From a share of a training on, the share of its drop that is left at best: the learning rate anneals at the end, and
with it goes nearly all of a drop that is seen before: 0.15 at 40 % of a training ended as 0.01."""
_ROUNDING = 2.0**-21
"""Four units in the last place of a float32 number, as a share of it: many metrics are computed in float32."""
_WHOLE = 1e-3
"""Largest distance from a whole number of a count that went through float32."""
LEAKAGE = "Possible leakage"
"""Beginning of the warning."""


def within_limit(drop: float, limit: float, *, quality: float | None = None) -> bool:
    """Return True if a drop is at most the limit, up to the rounding of a metric in float32.

    Examples
    --------
    >>> within_limit(0.01000005, 0.01, quality=0.94), within_limit(0.0101, 0.01, quality=0.94)
    (True, False)
    """
    return drop <= limit + _ROUNDING * max(1.0, abs(quality or 0.0), abs((quality or 0.0) + drop))


def may_exceed(high: float | None, limit: float) -> bool:
    """Return True if the upper end of a drop's 95 % CI is beyond the limit; False if there is no interval.

    Examples
    --------
    >>> may_exceed(0.0136, 0.01), may_exceed(None, 0.01)
    (True, False)
    """
    return high is not None and high > limit


def standard_error(drop: float, samples: int) -> float:
    """Return the standard error of a paired drop of a share of correct answers.

    Of n samples, at least a share ``drop`` changed its answer, which is the variance of the paired difference.

    Examples
    --------
    >>> round(standard_error(0.01, 400), 4)
    0.005
    """
    return math.sqrt(max(drop, 1 / samples) / samples)


def hopeless(drop: float, limit: float, *, quality: float | None, samples: int) -> bool:
    """Return True if a drop on the validation split is further beyond the limit than chance explains.

    For a share of correct answers two standard errors are allowed for; for other metrics, whose spread is not known,
    twice the limit.

    Examples
    --------
    >>> hopeless(0.05, 0.01, quality=0.9, samples=2000), hopeless(0.05, 0.01, quality=0.9, samples=50)
    (True, False)
    """
    if is_share(quality, drop):
        return drop - 2 * standard_error(drop, samples) > limit
    return drop > 2 * limit


def futile(drop: float, share: float, limit: float, *, quality: float | None, samples: int) -> bool:
    """Return True if a training at ``share`` of its time cannot be expected to end within the limit.

    Most of the quality returns while the learning rate falls, so a drop may still shrink to a fifteenth at half time.

    Examples
    --------
    >>> futile(0.50, 0.5, 0.01, quality=0.9, samples=400), futile(0.20, 0.5, 0.01, quality=0.9, samples=400)
    (True, False)
    """
    shrinks = next((factor for since, factor in _SHRINKS if share >= since), None)
    return shrinks is not None and hopeless(drop * shrinks, limit, quality=quality, samples=samples)


def is_share(quality: float | None, drop: float = 0.0) -> bool:
    """Return True if a metric looks like a share of correct answers."""
    return quality is not None and 0 <= quality <= 1 and 0 <= quality - drop <= 1


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
    if not all(_is_count(value, of) for value, of in zip((validation, evaluation), samples, strict=True)):
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


def _is_count(value: float, of: int) -> bool:
    """Return whether a metric may be a share of so many samples."""
    return 0 <= value <= 1 and abs(value * of - round(value * of)) < _WHOLE
