"""The largest step of a table that holds its goal when all layers change together, found by trying."""

from __future__ import annotations

from collections.abc import Callable

from workbench.compress.steps import Step
from workbench.core.errors import ConfigError

_WIDEN = 2.0  # single losses may add up to more than the whole loses: then more is allowed than the goal


def largest_holding(
    step_for: Callable[[float], Step],
    loss: Callable[[Step], float],
    goal: float,
    *,
    tries: int,
    words: Callable[[float], str] = "{:.4g}".format,
) -> Step:
    """Return the step for the largest allowance whose measured loss is at most ``goal``.

    Parameters
    ----------
    step_for
        Makes the step for a sum of single losses; ConfigError where nothing can be changed for that little.
    loss
        Measures a step as a whole.
    goal
        The largest loss, in the units of both.
    tries
        How many different steps may be measured.
    words
        Says a loss in the unit that the caller thinks in.

    Raises
    ------
    ConfigError
        If none of them holds the goal; with the loss of each.
    """
    known: dict[Step, float] = {}
    best: Step | None = None
    low, high, allowance = 0.0, float("inf"), goal
    for _ in range(4 * tries):  # allowances that come to the same step cost nothing, and end the search too
        try:
            step = step_for(allowance)
        except ConfigError:
            if not known:
                raise
            break
        if step not in known:
            if len(known) == tries:
                break
            known[step] = loss(step)
        if known[step] <= goal:
            best, low = step, allowance
        else:
            high = allowance
        allowance = low * _WIDEN if high == float("inf") else (low + high) / 2
    if best is None:
        told = ", ".join(map(words, known.values()))
        raise ConfigError(
            f"Sensitivity.fit: no step holds {words(goal)} when all its layers change together; measured, from the "
            f"largest step down: {told}. Allow more, give more tries, or measure milder settings."
        )
    return best
