"""Timing in blocks that alternate between arms, so that slow drift of the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from workbench.core.errors import ConfigError, TrialFailed
from workbench.core.given import given
from workbench.core.stats import median_interval, median_iqr, percentile
from workbench.timing.blocks import Block, RunDelay, Samples, run_block
from workbench.timing.conditions import Conditions, Watch, joined
from workbench.timing.interleave import SETTLE_S, until_quiet

BLOCK_S = 0.08
LEAST_ROUNDS = 6
"""Of fewer blocks no order statistics bound a median at 95 %."""
WARM_WINDOW_S = 0.03
WARM_TOLERANCE = 0.05
WARM_LIMIT_S = 1.0
_SETTLE_LOOK_S = 0.01
_CALLS_IN_BLOCK = 5
_BLOCK_RANGE_S = (0.03, 0.25)
_NEEDED = {"p90": (0.9, 36), "p99": (0.99, 368)}


class Arm(Protocol):
    """One thing to time: an engine in this process, or a child process that holds one."""

    name: str

    def warm(self) -> None:
        """Run until the time per call is steady."""

    def block(self, seconds: float) -> Block | Sequence[float]:
        """Discard settling calls, then return the calls of about ``seconds``, or their ms alone."""


class CallArm:
    """An arm in this process: ``call`` runs one batch.

    ``settle_s`` is how long calls after a switch may be thrown away: until they are as fast as in the blocks before.
    """

    def __init__(self, name: str, call: Callable[[], object], *, settle_s: float = SETTLE_S) -> None:
        self.name = name
        self.settle_s = settle_s
        self.warm_ms: float | None = None
        self._call = call
        self._paces: list[float] = []
        self._delay = RunDelay()

    def warm(self) -> None:
        """Run until the time per call is steady, and note how long a call then takes."""
        warm_until_steady(self._call)
        self.warm_ms = float(np.median(run_for(self._call, 0.0)))

    def block(self, seconds: float) -> Block:
        """Return the calls of about ``seconds``, at least one, after what settling takes.

        Afterwards this process is left quiet, for whoever is timed next.
        """
        self._settle()
        block = run_block(self._call, seconds, self._delay)
        self._paces.append(float(np.median(block.ms)))
        until_quiet()
        return block

    def _settle(self) -> None:
        """Call until the usual pace is reached; the whole time where it is not known yet, or not reached."""
        end = time.perf_counter() + self.settle_s
        usual = float(np.median(self._paces)) * (1 + WARM_TOLERANCE) if self._paces else 0.0
        while (left := end - time.perf_counter()) > 0:
            if np.median(run_for(self._call, min(left, _SETTLE_LOOK_S))) <= usual:
                return


def run_for(call: Callable[[], object], seconds: float) -> list[float]:
    """Call until ``seconds`` have passed, at least once; return ms per call."""
    clock = time.perf_counter
    samples = []
    last = clock()
    end = last + seconds
    while True:
        call()
        now = clock()
        samples.append((now - last) * 1e3)
        last = now
        if now >= end:
            return samples


def warm_until_steady(
    call: Callable[[], object],
    *,
    window_s: float = WARM_WINDOW_S,
    tolerance: float = WARM_TOLERANCE,
    limit_s: float = WARM_LIMIT_S,
) -> tuple[int, bool]:
    """Call until two windows in a row agree; return (calls, steady).

    A window is ``window_s`` of calls, at least two; windows agree when the later median is no more than
    ``tolerance`` below the earlier. Gives up after ``limit_s`` with ``steady`` False.
    """
    end = time.perf_counter() + limit_s
    call()
    calls, previous = 1, float("inf")
    while True:
        samples = run_for(call, window_s)
        if len(samples) < 2:
            samples += run_for(call, 0.0)
        calls += len(samples)
        current = float(np.median(samples))
        if previous < float("inf") and current >= previous * (1 - tolerance):
            return calls, True
        previous = current
        if time.perf_counter() >= end:
            return calls, False


@dataclass(frozen=True)
class Rounds:
    """Blocks of several arms in alternation.

    ``timed[name][i]`` is the block of that arm in round ``i``; ``order[i]`` is the order of the arms in that round;
    ``lost`` maps an arm whose process ended to the reason (its blocks are left out). ``conditions`` is the load of the
    machine over all rounds, None if nobody watched.
    """

    timed: dict[str, list[Block]]
    order: list[list[str]]
    lost: dict[str, TrialFailed] = field(default_factory=dict)
    conditions: Conditions | None = None

    @property
    def blocks(self) -> dict[str, list[Samples]]:
        """The ms per call of every block."""
        return {name: [block.ms for block in blocks] for name, blocks in self.timed.items()}


def interleave(
    arms: Sequence[Arm],
    *,
    rounds: tuple[int, int] = (6, 20),
    block_s: float = BLOCK_S,
    budget_s: float | None = None,
    seed: int = 0,
    enough: Callable[[Mapping[str, list[Block]]], bool] | None = None,
    after_round: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> Rounds:
    """Time the arms in alternating blocks, in a new random order each round.

    Parameters
    ----------
    arms : sequence of Arm
        Warm already. The first one is the reference: losing it ends the timing, losing another drops that one.
    rounds : (int, int)
        Least and most rounds.
    block_s : float
        Seconds recorded per block, after the arm's own settling time.
    budget_s : float, optional
        No further round starts after this many seconds, once the least number is done.
    enough : callable, optional
        Asked after each round from the least on; True ends the timing early.
    after_round : callable, optional
        Called with the number of rounds done, while nothing runs.
    watch : Watch, optional
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
        names = [str(name) for name in rng.permutation(list(alive))]
        fresh = _round([alive[name] for name in names], block_s, reference, lost)
        alive = {name: arm for name, arm in alive.items() if name not in lost}
        if watch is not None:
            laps.append(watch.lap())
        for name, block in fresh.items():
            blocks[name].append(block)
        order.append(names)
        if after_round is not None:
            after_round(len(order))
        if len(order) >= rounds[0] and (
            (enough is not None and enough(_of(blocks, alive))) or time.perf_counter() >= end
        ):
            break
    return Rounds(_of(blocks, alive), order, lost, joined(laps))


def check_rounds(where: str, rounds: Any) -> None:
    """Raise ConfigError where ``rounds`` is not (least, most) with enough of them to bound a median."""
    whole = isinstance(rounds, tuple | list) and len(rounds) == 2
    whole = whole and all(isinstance(n, int) and not isinstance(n, bool) for n in rounds)
    if not whole or not LEAST_ROUNDS <= rounds[0] <= rounds[1]:
        raise ConfigError(
            f"{where}: rounds must be (least, most), whole numbers with {LEAST_ROUNDS} <= least <= most: fewer rounds "
            f"bound no median. Got {given(rounds)}."
        )


def block_seconds(arms: Sequence[CallArm]) -> float:
    """Return how long a block should be: a few calls of the slowest arm, as far as their warm-up tells.

    Short blocks leave room for more rounds, and it is the number of rounds that narrows an interval; a block of one
    call would be no median.
    """
    slowest = max((arm.warm_ms or 0.0 for arm in arms), default=0.0)
    return min(max(_CALLS_IN_BLOCK * slowest / 1e3, _BLOCK_RANGE_S[0]), _BLOCK_RANGE_S[1])


def disturbed_notes(timed: Rounds) -> tuple[str, ...]:
    """Return what a reader must know of the machine's load meanwhile, a sentence each."""
    if timed.conditions is None or not timed.conditions.reasons:
        return ()
    return (f"Disturbed: {', '.join(timed.conditions.reasons)}.",)


def usage_per_call(blocks: Sequence[Block]) -> tuple[float | None, float | None]:
    """Return page faults and context switches per call over all blocks, None if they were not counted."""
    counted = [block for block in blocks if block.usage is not None]
    calls = sum(block.ms.size for block in counted)
    if not calls:
        return None, None
    totals = [sum(block.usage[i] for block in counted if block.usage is not None) / calls for i in (0, 1)]
    return totals[0], totals[1]


def _round(arms: Sequence[Arm], block_s: float, reference: str, lost: dict[str, TrialFailed]) -> dict[str, Block]:
    """Return a block of every arm; one whose process ends goes over to ``lost``."""
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


@dataclass(frozen=True)
class Timing:
    """Latency of one arm, in ms per call.

    ``p50`` is the median of the medians of blocks, and ``low``/``high`` bound it at 95 % by order statistics over them,
    because calls within a block are not independent. Calls that waited for a core are left out of these three as long
    as undisturbed ones are in enough blocks; ``undisturbed`` is their share. The other figures are of all calls
    together. What the samples do not resolve is None, and ``notes`` says why.
    """

    blocks: tuple[Samples, ...]
    p50: float
    iqr: float
    low: float | None
    high: float | None
    p90: float | None
    p99: float | None
    notes: dict[str, str]
    undisturbed: float = 1.0

    @property
    def calls(self) -> int:
        """Number of calls that were timed."""
        return sum(block.size for block in self.blocks)

    @classmethod
    def of(cls, blocks: Sequence[Any]) -> Timing:
        """Summarize blocks, or lists of ms per call.

        Examples
        --------
        >>> timing = Timing.of([[1.0, 2.0, 3.0]] * 6)
        >>> timing.p50, timing.p99, timing.notes["p99"]
        (2.0, None, '18 calls do not resolve p99: 368 are needed.')
        """
        timed = [Block.of(block) for block in blocks]
        arrays = tuple(block.ms for block in timed)
        samples = np.concatenate(arrays)
        kept = [block.undisturbed_ms for block in timed]
        share = sum(ms.size for ms in kept) / samples.size
        enough = sum(ms.size > 0 for ms in kept) >= min(LEAST_ROUNDS, len(timed))
        middles = [float(np.median(ms)) for ms in (kept if enough else arrays) if ms.size]
        iqr, bounds = median_iqr(samples)[1], median_interval(middles)
        notes = {} if bounds else {"low": f"{len(middles)} blocks do not bound the median: 6 are needed."}
        if not enough:
            notes["p50"] = f"{1 - share:.0%} of the calls waited for a core, which raises their median."
        tails: dict[str, float | None] = {}
        for name, (q, needed) in _NEEDED.items():
            tails[name] = percentile(samples, q)
            if tails[name] is None:
                notes[name] = f"{samples.size} calls do not resolve {name}: {needed} are needed."
        low, high = bounds or (None, None)
        return cls(arrays, float(np.median(middles)), iqr, low, high, tails["p90"], tails["p99"], notes, share)
