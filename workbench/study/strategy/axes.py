"""The axes that a model can be made smaller along: their steps, and the amounts that are probed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.compress.steps import STEP_TYPES, Distill, Factorize, Prune, Recover, Step

Steps = tuple[Step, ...]
PROBED = {"depth": 0.3, "width": 0.3, "rank": 0.35}
GENTLE = {"depth": 0.1, "width": 0.1, "rank": 0.15}
"""Shares that are probed if nothing can be trained."""
_LOOKS = 12
_LEAST = 0.02
WORDS = {"depth": "depth pruning", "width": "structured pruning", "rank": "low-rank factorization"}


@dataclass(frozen=True)
class Axis:
    """An axis as it was probed on the leading engine.

    ``unit`` is the smallest share that can be taken out: for depth a block's share of the multiply-accumulates.
    ``untrained`` is the drop on the validation split before any recovery, ``most`` the largest share there is.
    ``probe`` are the steps that were probed: where they take out what is asked for they are used again, because they
    are kept. ``options`` are those of depth pruning. ``counted`` is False if there was no time for a probe: shares
    are then fractions of the removable blocks, whose number is not known.
    """

    name: str
    probed: float
    ratio: float
    unit: float
    seconds: float
    untrained: float | None = None
    most: float = 0.9
    probe: Steps = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    counted: bool = True

    def steps(self, share: float, *, taken: float = 0.0) -> Steps | None:
        """Return the steps that take a share out of a model that has lost ``taken`` already.

        None if the axis cannot go on from there, and must begin anew.
        """
        if not taken and abs(share - self.probed) < self.unit / 2:
            return self.probe or None
        if self.name == "depth" and not self.counted:
            ratio = 1 - (1 - share) / (1 - taken)
            return (depth_step(ratio=round(ratio, 3), **self.options),) if ratio >= _LEAST else None
        if self.name == "depth":
            blocks = round((share - taken) / self.unit)
            return (depth_step(blocks=blocks, **self.options),) if blocks >= 1 else None
        if self.name == "width":
            ratio = 1 - (1 - share) / (1 - taken)
            return (Prune(ratio=round(ratio, 3)),) if ratio >= _LEAST else None
        if taken:
            return None
        return (Factorize(budget=round(1 - share, 3)),)

    def words(self, share: float) -> str:
        """Return an amount in words."""
        if self.name == "depth" and not self.counted:
            return f"{share:.0%} of the blocks out"
        if self.name == "depth":
            blocks = round(share / self.unit)
            return f"{blocks} block{'s' if blocks != 1 else ''} out ({share:.0%} of the work)"
        return f"{WORDS[self.name]} {share:.0%}"

    def short(self, share: float) -> str:
        """Return a name for tables."""
        if self.name == "depth":
            return f"depth {round(share / self.unit)}" if self.counted else f"depth {share:.2f}"
        return f"{'prune' if self.name == 'width' else 'factorize'} {share:.2f}"


def depth_step(**options: Any) -> Step:
    """Return a step of depth pruning; only for versions that have it, see :func:`has_depth`."""
    return STEP_TYPES["PruneDepth"](**options)


def has_depth() -> bool:
    """Return True if there is a step that takes whole residual blocks out."""
    return "PruneDepth" in STEP_TYPES


def probe_steps(name: str, share: float, options: Mapping[str, Any] | None = None) -> Steps | None:
    """Return the steps by which an axis is probed, None if this version has no such step."""
    if name == "depth":
        return (depth_step(ratio=share, **(options or {})),) if has_depth() else None
    return (Prune(ratio=share),) if name == "width" else (Factorize(budget=round(1 - share, 3)),)


def distill(seconds: float, *, epochs: float, epoch_s: float | None = None) -> Distill:
    """Return the recovery of a candidate; the validation metric is looked at a dozen times on the way.

    ``epoch_s`` is what an epoch is expected to take, None if that is not known.
    """
    expected = epochs if epoch_s is None else min(epochs, seconds / epoch_s)
    return Distill(epochs=epochs, max_seconds=round(seconds, 1), evaluate_every=max(0.25, round(expected / _LOOKS, 2)))


def recover(seconds: float, *, epochs: float = 4.0) -> Recover:
    """Return the short recovery of a survey."""
    return Recover(epochs=epochs, max_seconds=round(seconds, 1))
