"""Compression axes (depth, width, rank): their steps and probed ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.compress.steps import Distill, Factorize, Prune, PruneDepth, Recover, Step
from workbench.core.format.numbers import plural

Steps = tuple[Step, ...]
PROBED = {"depth": 0.3, "width": 0.3, "rank": 0.35}
GENTLE = {"depth": 0.1, "width": 0.1, "rank": 0.15}
"""Probed shares for tasks without training."""
_LOOKS = 12
_LEAST = 0.02
WORDS = {"depth": "depth pruning", "width": "structured pruning", "rank": "low-rank factorization"}


@dataclass(frozen=True)
class Axis:
    """An axis with its probe on the leading engine.

    ``unit`` is the smallest share that can be removed (for depth a block's share of the MACs), ``most`` the largest.
    ``untrained`` is the validation drop before any recovery. ``probe`` are the probed steps, which are cached and used
    again for the same share. ``options`` are those of depth pruning. ``counted`` is False without a probe: shares are
    then fractions of the removable blocks.
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

    def steps(self, share: float, *, removed: float = 0.0) -> Steps | None:
        """Return the steps from ``removed`` to ``share``, or None if the axis must start again from the full model."""
        if not removed and abs(share - self.probed) < self.unit / 2:
            return self.probe or None
        if self.name == "rank":
            return None if removed else (Factorize(budget=round(1 - share, 3)),)
        if self.name == "depth" and self.counted:
            blocks = round((share - removed) / self.unit)
            return (PruneDepth(blocks=blocks, **self.options),) if blocks >= 1 else None
        ratio = 1 - (1 - share) / (1 - removed)
        return probe_steps(self.name, round(ratio, 3), self.options) if ratio >= _LEAST else None

    def words(self, share: float) -> str:
        """Return a share as text."""
        if self.name != "depth":
            return f"{WORDS[self.name]} {share:.0%}"
        blocks = plural(round(share / self.unit), "block")
        return f"{blocks} removed ({share:.0%} of the work)" if self.counted else f"{share:.0%} of the blocks removed"

    def short(self, share: float) -> str:
        """Return a short name for tables."""
        if self.name == "depth":
            return f"depth {round(share / self.unit)}" if self.counted else f"depth {share:.2f}"
        return f"{'prune' if self.name == 'width' else 'factorize'} {share:.2f}"


def probe_steps(name: str, share: float, options: Mapping[str, Any]) -> Steps:
    """Return the steps of an axis' probe; ``options`` are those of depth pruning."""
    if name == "depth":
        return (PruneDepth(ratio=share, **options),)
    return (Prune(ratio=share),) if name == "width" else (Factorize(budget=round(1 - share, 3)),)


def distill(seconds: float, *, epochs: float, epoch_s: float | None = None) -> Distill:
    """Return the distillation of a candidate with about a dozen validations; ``epoch_s`` are the seconds per epoch."""
    expected = epochs if epoch_s is None else min(epochs, seconds / epoch_s)
    return Distill(epochs=epochs, max_seconds=round(seconds, 1), evaluate_every=max(0.25, round(expected / _LOOKS, 2)))


def recover(seconds: float, *, epochs: float = 4.0) -> Recover:
    """Return the short recovery of a survey."""
    return Recover(epochs=epochs, max_seconds=round(seconds, 1))
