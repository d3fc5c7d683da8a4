"""Predict the drop that is left after recovery, and the share of a model that can be taken out for a given drop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

POINT = 0.01
_MOST, _NEAREST = 0.9, 0.4
_TRUST = 0.75
"""Weight of an observation against the prior, on the logarithm of the scale."""
_SAMPLES = 3370
_LEAST_SAMPLES = 50


@dataclass(frozen=True)
class DropModel:
    """The drop after recovery grows with a power of the share taken out: ``scale * (share / at) ** power``.

    The priors are measured: a ResNet-56 on CIFAR-10 with 3,370 training images lost 0.5, 1.0 and 2.0 points with 30,
    37 and 44 % of its blocks out, after 3 to 7 minutes of distillation on two cores; 30 and 50 % of its channels out
    cost 1.1 and 3.5 points or more.
    """

    scale: float
    at: float
    power: float

    def drop(self, share: float) -> float:
        """Return the predicted drop."""
        return float(self.scale * (share / self.at) ** self.power)

    def share(self, drop: float) -> float:
        """Return the share that is predicted to lose ``drop``; 0 if nothing may be lost.

        Examples
        --------
        >>> round(prior("depth", point=0.01, samples=3370).share(0.005), 2)
        0.3
        """
        return float(self.at * (drop / self.scale) ** (1 / self.power)) if drop > 0 else 0.0

    def observed(self, share: float, drop: float, *, floor: float) -> DropModel:
        """Return the prediction after an observation; drops below ``floor`` are not resolved by the data."""
        seen = max(drop, floor) * (self.at / share) ** self.power
        return replace(self, scale=math.exp(_TRUST * math.log(seen) + (1 - _TRUST) * math.log(self.scale)))


_PRIORS = {"depth": (0.37, 3.5), "width": (0.28, 2.4), "rank": (0.35, 2.4)}


def prior(axis: str, *, point: float, samples: int) -> DropModel:
    """Return the prediction for an axis before anything was trained; ``point`` is the unit of the quality limit.

    With fewer training samples more is lost.
    """
    at, power = _PRIORS[axis]
    scarce = max(1.0, _SAMPLES / max(samples, _LEAST_SAMPLES)) ** 0.25
    return DropModel(point * scarce, at, power)


def next_share(
    model: DropModel,
    *,
    low: float,
    high: float | None,
    unit: float,
    allowed: float,
    most: float = _MOST,
    beyond: float = 1.25,
) -> float | None:
    """Return the share above ``low`` that is predicted to lose ``allowed``, in multiples of ``unit``.

    ``low`` is known to hold the limit, ``high`` to miss it; no more than ``most`` can be taken out. The first share is
    rounded down, later ones to the nearest, because a fallback is there. One unit above ``low`` is tried if it is
    predicted to lose at most ``beyond`` times as much as allowed. None if there is no such share.

    Examples
    --------
    >>> model = prior("depth", point=0.01, samples=3370)
    >>> round(next_share(model, low=0.0, high=None, unit=1 / 27, allowed=0.005) * 27)
    8
    """
    wanted = min(model.share(allowed), most)
    if high is not None:
        wanted = min(wanted, high - unit)
    wanted = math.floor(min(wanted / unit + (_NEAREST if low else 0.0), most / unit) + 1e-6) * unit
    if high is not None and wanted > high - unit / 2:
        wanted -= unit
    if wanted > low + unit / 2:
        return wanted
    step = (math.floor(low / unit + 1e-6) + 1) * unit
    missed = high is not None and step > high - unit / 2
    return step if not missed and step <= most + 1e-9 and model.drop(step) <= beyond * allowed else None


def with_untrained_drop(model: DropModel, *, share: float, untrained: float | None, floor: float) -> DropModel:
    """Return a prediction that uses the drop before any training: recovery leaves at most a quarter of it.

    Examples
    --------
    >>> model = prior("depth", point=0.01, samples=3370)
    >>> informed(model, share=0.37, untrained=0.008, floor=0.001).drop(0.37) < model.drop(0.37)
    True
    """
    if untrained is None:
        return model
    bound = max(untrained, 0.0) / 4
    return model.observed(share, bound, floor=floor) if max(bound, floor) < model.drop(share) else model


def speedup_at(share: float, *, probed: float, ratio: float) -> float:
    """Return the predicted speedup at a share, from the ``ratio`` measured at the share ``probed``.

    The time saved is proportional to the share.

    Examples
    --------
    >>> round(speedup_at(0.37, probed=0.3, ratio=1.43), 2)
    1.59
    """
    saved = (1 - 1 / ratio) * share / probed
    return 1 / (1 - min(saved, 0.9))


def share_for(speedup: float, *, probed: float, ratio: float) -> float | None:
    """Return the share at which ``speedup`` is predicted; None if the axis gains nothing."""
    saved = 1 - 1 / ratio
    return None if saved <= 0 else probed * (1 - 1 / speedup) / saved
