"""Model of the quality drop after recovery as a function of the removed share."""

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
    """Power law of the drop after recovery: ``scale * (share / at) ** power``.

    The priors are measured with a ResNet-56 on CIFAR-10 and 3,370 training images, after 3 to 7 minutes of
    distillation on two cores: 0.5, 1.0 and 2.0 points for 30, 37 and 44 % of its blocks; 1.1 and 3.5 points for 30 and
    50 % of its channels.
    """

    scale: float
    at: float
    power: float

    def drop(self, share: float) -> float:
        """Return the predicted drop."""
        return float(self.scale * (share / self.at) ** self.power)

    def share(self, drop: float) -> float:
        """Return the share with a predicted drop of ``drop``; 0 for no drop.

        Examples
        --------
        >>> round(prior("depth", point=0.01, samples=3370).share(0.005), 2)
        0.3
        """
        return float(self.at * (drop / self.scale) ** (1 / self.power)) if drop > 0 else 0.0

    def observed(self, share: float, drop: float, *, floor: float) -> DropModel:
        """Return the model after an observation; drops below ``floor`` are not resolved by the data."""
        scale = max(drop, floor) * (self.at / share) ** self.power
        return replace(self, scale=math.exp(_TRUST * math.log(scale) + (1 - _TRUST) * math.log(self.scale)))


_PRIORS = {"depth": (0.37, 3.5), "width": (0.28, 2.4), "rank": (0.35, 2.4)}


def prior(axis: str, *, point: float, samples: int) -> DropModel:
    """Return the prior of an axis; ``point`` is the unit of the quality limit. Fewer samples give a larger drop."""
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
    """Return the share above ``low`` with a predicted drop of ``allowed``, in multiples of ``unit``, or None.

    ``low`` meets the limit, ``high`` misses it, ``most`` is the largest share. The first share is rounded down, later
    ones to the nearest, because a fallback exists. One unit above ``low`` is tried if its predicted drop is at most
    ``beyond * allowed``.

    Examples
    --------
    >>> model = prior("depth", point=0.01, samples=3370)
    >>> round(next_share(model, low=0.0, high=None, unit=1 / 27, allowed=0.005) * 27)
    8
    """
    share = min(model.share(allowed), most)
    if high is not None:
        share = min(share, high - unit)
    share = math.floor(min(share / unit + (_NEAREST if low else 0.0), most / unit) + 1e-6) * unit
    if high is not None and share > high - unit / 2:
        share -= unit
    if share > low + unit / 2:
        return share
    step = (math.floor(low / unit + 1e-6) + 1) * unit
    missed = high is not None and step > high - unit / 2
    return step if not missed and step <= most + 1e-9 and model.drop(step) <= beyond * allowed else None


def with_untrained_drop(model: DropModel, *, share: float, untrained: float | None, floor: float) -> DropModel:
    """Return the model updated by the untrained drop, of which recovery leaves at most a quarter.

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
    """Return the predicted speedup at a share, from the ``ratio`` at the share ``probed``: saved time is proportional.

    Examples
    --------
    >>> round(speedup_at(0.37, probed=0.3, ratio=1.43), 2)
    1.59
    """
    saved = (1 - 1 / ratio) * share / probed
    return 1 / (1 - min(saved, 0.9))


def share_for(speedup: float, *, probed: float, ratio: float) -> float | None:
    """Return the share with a predicted speedup of ``speedup``, or None if the axis gains nothing."""
    saved = 1 - 1 / ratio
    return None if saved <= 0 else probed * (1 - 1 / speedup) / saved
