"""What tuning found: the settings that were measured, which of them was chosen, and whether that is decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from workbench.engine.config import InferenceConfig

DECIDING_ROUNDS = 6
"""Rounds below which an interval is no base for a decision."""
TIME_UP = "not measured: the time was up"
_MORE = "Give a larger budget_s."


@dataclasses.dataclass(frozen=True)
class TunedSetting:
    """One setting that was measured, or the ``reason`` why it was not.

    ``changes`` are the options that differ from the engine's own config; ``stage`` is the option that was looked at,
    or ``"final"`` for the fresh measurement that decides. ``median_ms`` is per call, and where calls run at once the
    time of all over their number. ``ratio`` is this time over the default's, timed beside it, with its 95 % CI:
    below 1 it is faster.
    """

    name: str
    stage: str
    changes: Mapping[str, Any]
    median_ms: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    rounds: int = 0
    reason: str | None = None

    @property
    def clearly_faster(self) -> bool:
        """Whether the whole interval of the ratio lies below 1."""
        return self.ratio_high is not None and self.ratio_high < 1.0

    def __str__(self) -> str:
        if self.median_ms is None or self.ratio is None:
            return f"{self.name}: {self.reason}"
        return f"{self.name}: {self.median_ms:.3g} ms, {self.ratio:.3g} ({self.ratio_low:.3g} to {self.ratio_high:.3g})"


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """What :meth:`OptimizedInferenceEngine.tune` found.

    ``changes`` are the options of the winner that differ from the engine's own config, empty where that stays;
    ``config`` is the winner. ``table`` has the default first, then what was measured, in that order. ``cached`` says
    that it was measured earlier. ``decided`` is False where the time did not suffice: such a result is not kept.
    """

    backend: str
    batch_size: int
    goal: str
    changes: Mapping[str, Any]
    config: InferenceConfig
    table: tuple[TunedSetting, ...]
    verdict: str
    seconds: float
    cached: bool = False
    decided: bool = True
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.verdict


def describe(changes: Mapping[str, Any]) -> str:
    """Return settings as they are written in a config."""
    return ", ".join(f"{name}={value!r}" for name, value in changes.items()) or "default"


class Judged(NamedTuple):
    """Whether the last measurement's setting won, whether there was time enough to say so, and a sentence on it."""

    won: bool
    decided: bool
    verdict: str


def judge(final: TunedSetting | None, table: Sequence[TunedSetting]) -> Judged:
    """Return what is chosen and why; ``final`` is the measurement that decides, None where no setting got so far."""
    if final is None:
        return _without_winner([row for row in table if row.stage != "default"])
    if final.ratio is None:
        more = f" {_MORE}" if final.reason == TIME_UP else ""
        reason = f"{final.name} was the fastest, and {final.reason} for the decision"
        return Judged(False, False, f"The default stays: {reason}.{more}")
    share = f"{final.ratio:.3g} of the default's time (95 % CI {final.ratio_low:.3g}-{final.ratio_high:.3g})"
    if final.rounds < DECIDING_ROUNDS:
        return Judged(False, False, f"The default stays: {final.name} took {share}, but {_too_few(final.rounds)}")
    if final.clearly_faster:
        return Judged(True, True, f"Chosen: {final.name}, {share}.")
    return Judged(False, True, f"The default stays: {final.name} took {share}, which does not lie wholly below 1.")


def _without_winner(tried: Sequence[TunedSetting]) -> Judged:
    if not tried:
        return Judged(False, True, "The default stays: there is nothing else to try here.")
    late = [row for row in tried if row.reason == TIME_UP]
    measured = [row.rounds for row in tried if row.reason is None]
    if not measured:
        reason = (late or tried)[0].reason
        return Judged(False, not late, f"The default stays: {reason}.{f' {_MORE}' if late else ''}")
    text = "The default stays: nothing that was tried was clearly faster"
    if min(measured) < DECIDING_ROUNDS:
        return Judged(False, False, f"{text}, but {_too_few(min(measured))}")
    if late:
        count = f"{len(late)} of {len(tried)} settings"
        return Judged(False, False, f"{text}, and {count} were not measured: the time was up. {_MORE}")
    return Judged(False, True, f"{text}.")


def _too_few(rounds: int) -> str:
    return f"only {rounds} rounds fitted into the time, and {DECIDING_ROUNDS} are needed. {_MORE}"
