"""Results of autotuning: candidates, settings, and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from workbench.engine.config import InferenceConfig

DECIDING_ROUNDS = 6
"""Fewer rounds give no usable interval."""
TIME_UP = "not measured: the time was up"
_REMEDY = "Give a larger budget_s."


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A backend in ``backend="auto"``: ``median_ms`` per call, or None and the ``reason`` why it was left out.

    ``settings`` are options that differ from the config, for backends that are measured in several ways.
    """

    backend: str
    median_ms: float | None = None
    max_abs_diff: float | None = None
    reason: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.backend} {describe(self.settings)}" if self.settings else self.backend

    def __str__(self) -> str:
        if self.reason is not None:
            return f"{self.name} left out: {self.reason}"
        return f"{self.name} {self.median_ms:.3g} ms" if self.median_ms else f"{self.name} not measured"


@dataclasses.dataclass(frozen=True)
class TunedSetting:
    """A measured setting, or the ``reason`` why it was not measured.

    ``changes`` are the options that differ from the engine's config; ``stage`` is the option under test, or ``"final"``
    for the measurement that decides. ``median_ms`` is per call; for concurrent calls, total time over their number.
    ``ratio`` is time over the default's in the same rounds, with its 95 % CI: below 1 is faster.
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
        """True if the whole CI of the ratio is below 1."""
        return self.ratio_high is not None and self.ratio_high < 1.0

    def __str__(self) -> str:
        if self.median_ms is None or self.ratio is None:
            return f"{self.name}: {self.reason}"
        return f"{self.name}: {self.median_ms:.3g} ms, {self.ratio:.3g} ({self.ratio_low:.3g} to {self.ratio_high:.3g})"


@dataclasses.dataclass(frozen=True)
class TuneResult:
    """Result of :meth:`OptimizedInferenceEngine.tune`.

    ``config`` is the winner's config and ``changes`` its differences from the engine's, empty if the default wins.
    ``table`` lists the default first, then the settings in order. ``cached`` marks a stored result. ``decided`` is
    False if time was too short; such a result is not stored.
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
    """Return settings as written in a config."""
    return ", ".join(f"{name}={value!r}" for name, value in changes.items()) or "default"


class Verdict(NamedTuple):
    """Decision of a tuning: the final setting won, time sufficed to decide, and a sentence."""

    won: bool
    decided: bool
    text: str


def judge(final: TunedSetting | None, table: Sequence[TunedSetting]) -> Verdict:
    """Decide by the final measurement; ``final`` is None if no setting got that far."""
    if final is None:
        return _without_winner([row for row in table if row.stage != "default"])
    if final.ratio is None:
        remedy = f" {_REMEDY}" if final.reason == TIME_UP else ""
        reason = f"{final.name} was the fastest, but the deciding measurement is missing ({final.reason})"
        return Verdict(False, False, f"The default stays: {reason}.{remedy}")
    share = f"{final.ratio:.3g} of the default's time (95 % CI {final.ratio_low:.3g}-{final.ratio_high:.3g})"
    if final.rounds < DECIDING_ROUNDS:
        return Verdict(False, False, f"The default stays: {final.name} took {share}, but {_too_few(final.rounds)}")
    if final.clearly_faster:
        return Verdict(True, True, f"Chosen: {final.name}, {share}.")
    return Verdict(False, True, f"The default stays: {final.name} took {share}, which is not wholly below 1.")


def _without_winner(rows: Sequence[TunedSetting]) -> Verdict:
    if not rows:
        return Verdict(False, True, "The default stays: there is nothing else to try here.")
    late = [row for row in rows if row.reason == TIME_UP]
    rounds = [row.rounds for row in rows if row.reason is None]
    if not rounds:
        reason = (late or rows)[0].reason
        return Verdict(False, not late, f"The default stays: {reason}.{f' {_REMEDY}' if late else ''}")
    text = "The default stays: no setting was clearly faster"
    if min(rounds) < DECIDING_ROUNDS:
        return Verdict(False, False, f"{text}, but {_too_few(min(rounds))}")
    if late:
        count = f"{len(late)} of {len(rows)} settings"
        return Verdict(False, False, f"{text}, and {count} were not measured: the time was up. {_REMEDY}")
    return Verdict(False, True, f"{text}.")


def _too_few(rounds: int) -> str:
    return f"only {rounds} rounds fitted into the time, and {DECIDING_ROUNDS} are needed. {_REMEDY}"
