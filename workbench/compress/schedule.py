"""Schedules of iterative pruning and sparsification."""

from __future__ import annotations

from math import exp

SCHEDULES = ("even", "cubic", "one_cycle")
# Slope and start of the one-cycle curve, as in fasterai.
_SLOPE, _START = 14.0, 6.0


def scheduled_share(schedule: str, time: float) -> float:
    """Return the share of the final ratio at ``time``, the share of the rounds done.

    ``even``: in proportion. ``cubic``: large rounds first (Zhu and Gupta, To prune, or not to prune, arXiv
    1710.01878). ``one_cycle``: small rounds at both ends, large ones in between (Hubens et al., One-Cycle Pruning,
    arXiv 2107.02086).

    Examples
    --------
    >>> share_due("cubic", 0.5), share_due("one_cycle", 1.0)
    (0.875, 1.0)
    """
    if schedule == "cubic":
        return 1 - (1 - time) ** 3
    if schedule == "one_cycle":
        return (1 + exp(_START - _SLOPE)) / (1 + exp(_START - _SLOPE * time))
    return time
