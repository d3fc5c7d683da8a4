"""Interleaved timing: short blocks of calls in a new random order each round, so that drift meets all arms alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.core.checks import given
from workbench.core.errors import ConfigError, TrialFailed
from workbench.timing.arms import Arm
from workbench.timing.blocks import Block, Samples
from workbench.timing.conditions import Conditions, LoadMonitor, merge_conditions
from workbench.timing.pace import MIN_BLOCKS

BLOCK_S = 0.08


@dataclass(frozen=True)
class Rounds:
    """Blocks of several interleaved arms.

    ``timed[name][i]`` is the block of that arm in round ``i``; ``order[i]`` is the order of the arms in that round;
    ``lost`` maps an arm whose process ended to the reason (its blocks are left out). ``conditions`` is the load of the
    machine over all rounds, None if it was not monitored.
    """

    timed: dict[str, list[Block]]
    order: list[list[str]]
    lost: dict[str, TrialFailed] = field(default_factory=dict)
    conditions: Conditions | None = None

    @property
    def blocks(self) -> dict[str, list[Samples]]:
        """The ms per call of every block."""
        return {name: [block.ms for block in blocks] for name, blocks in self.timed.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """The disturbances of the machine during the timing, in one sentence; empty without any."""
        reasons = self.conditions.reasons if self.conditions is not None else ()
        return (f"Disturbed: {', '.join(reasons)}.",) if reasons else ()


def interleave(
    arms: Sequence[Arm],
    *,
    rounds: tuple[int, int] = (6, 20),
    block_s: float = BLOCK_S,
    budget_s: float | None = None,
    seed: int = 0,
    enough: Callable[[Mapping[str, list[Block]]], bool] | None = None,
    after_round: Callable[[int], None] | None = None,
    monitor: LoadMonitor | None = None,
) -> Rounds:
    """Time one block of every arm per round, in a new random order each round.

    Parameters
    ----------
    arms : sequence of Arm
        Warm already. The first one is the reference: losing it ends the timing, losing another drops that one.
    rounds : (int, int)
        Minimum and maximum number of rounds.
    block_s : float
        Seconds recorded per block, after the arm's own settling time.
    budget_s : float, optional
        After the minimum, no further round starts that would end later, going by the round before.
    enough : callable, optional
        Called after each round from the minimum on; True ends the timing early.
    after_round : callable, optional
        Called with the number of rounds done, while nothing runs.
    monitor : LoadMonitor, optional
        Records the load of the machine in every round.

    Raises
    ------
    TrialFailed
        If the reference arm's process ended.
    """
    rng = np.random.default_rng(seed)
    alive = {arm.name: arm for arm in arms}
    if len(alive) != len(arms):
        raise ValueError(f"Arms need different names, got {[arm.name for arm in arms]}.")
    blocks: dict[str, list[Block]] = {name: [] for name in alive}
    order: list[list[str]] = []
    lost: dict[str, TrialFailed] = {}
    end = float("inf") if budget_s is None else time.perf_counter() + budget_s
    reference = next(iter(alive), "")
    laps: list[Conditions] = []
    while len(order) < rounds[1]:
        begun = time.perf_counter()
        names = [str(name) for name in rng.permutation(list(alive))]
        fresh = _round([alive[name] for name in names], block_s, reference, lost)
        alive = {name: arm for name, arm in alive.items() if name not in lost}
        if monitor is not None:
            laps.append(monitor.lap())
        for name, block in fresh.items():
            blocks[name].append(block)
        order.append(names)
        if after_round is not None:
            after_round(len(order))
        if len(order) >= rounds[0]:
            now = time.perf_counter()
            if (enough is not None and enough(_of(blocks, alive))) or now + (now - begun) > end:
                break
    return Rounds(_of(blocks, alive), order, lost, merge_conditions(laps))


def check_rounds(where: str, rounds: Any) -> None:
    """Raise ConfigError unless ``rounds`` is (min, max) with enough rounds to bound a median."""
    whole = isinstance(rounds, tuple | list) and len(rounds) == 2
    whole = whole and all(isinstance(n, int) and not isinstance(n, bool) for n in rounds)
    if not whole or not MIN_BLOCKS <= rounds[0] <= rounds[1]:
        raise ConfigError(
            f"{where}: rounds must be (min, max), integers with {MIN_BLOCKS} <= min <= max, got {given(rounds)}. Fewer "
            "rounds do not bound a median."
        )


def _round(arms: Sequence[Arm], block_s: float, reference: str, lost: dict[str, TrialFailed]) -> dict[str, Block]:
    """Return a block of every arm; add an arm whose process ended to ``lost``."""
    fresh: dict[str, Block] = {}
    for arm in arms:
        try:
            fresh[arm.name] = Block.of(arm.block(block_s))
        except TrialFailed as error:
            if arm.name == reference:
                raise
            lost[arm.name] = error
    return fresh


def _of(blocks: Mapping[str, list[Block]], names: Iterable[str]) -> dict[str, list[Block]]:
    return {name: blocks[name] for name in names}
