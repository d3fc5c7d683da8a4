"""Interleaved timing: short blocks of calls in a new random order each round, so that drift meets all arms alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from workbench.core.checks import given
from workbench.core.errors import ConfigError, TrialFailed
from workbench.timing.blocks import Block, Samples, run_block
from workbench.timing.conditions import Conditions, LoadMonitor, merge_conditions
from workbench.timing.pace import MIN_BLOCKS
from workbench.timing.settling import SETTLE_S, run_for, settle, wait_until_idle, warm_until_steady

BLOCK_S = 0.08
_MAX_EVENT_CALLS = 10_000
_CALLS_IN_BLOCK = 5
_BLOCK_RANGE_S = (0.03, 0.25)


class Arm(Protocol):
    """One of the things to time: an engine in this process, or a process that holds one."""

    name: str

    def block(self, seconds: float) -> Block | Sequence[float]:
        """Discard settling calls, then return the calls of about ``seconds``, or only their ms."""


class CallArm:
    """An arm in this process: ``call`` runs one batch.

    ``settle_s`` is the longest time for which calls after a switch are discarded: until they are as fast as in the
    earlier blocks.
    """

    def __init__(self, name: str, call: Callable[[], object], *, settle_s: float = SETTLE_S) -> None:
        self.name, self.settle_s = name, settle_s
        self.warm_ms: float | None = None
        self._call = call
        self._medians_ms: list[float] = []

    def warm(self) -> None:
        """Run until the time per call is steady, and set ``warm_ms`` to it."""
        warm_until_steady(self._call)
        self.warm_ms = float(np.median(run_for(self._call, 0.0)))

    def block(self, seconds: float) -> Block:
        """Return the calls of about ``seconds``, at least one, after settling; leave this process idle."""
        usual = float(np.median(self._medians_ms)) if self._medians_ms else 0.0
        settle(self._call, self.settle_s, usual_ms=usual)
        block = run_block(self._call, seconds)
        self._medians_ms.append(float(np.median(block.ms)))
        wait_until_idle()
        return block


class EventArm:
    """An arm of asynchronous GPU calls, such as a module on tensors that are on the device.

    A block is queued as a whole and timed by two CUDA events, so that neither a wait after each call nor Python's
    launch overhead counts, as long as the GPU is the slower of the two. Time calls that wait for their result, such as
    ``engine.predict``, with :class:`CallArm`. ``call`` queues one call on the current stream of ``device``, such as
    ``"cuda:0"``; without a CUDA device, ConfigError is raised.
    """

    def __init__(
        self, name: str, call: Callable[[], object], *, device: str, settle_s: float = SETTLE_S, cuda: Any = None
    ) -> None:
        self.name, self.device, self.settle_s = name, device, settle_s
        self.warm_ms: float | None = None
        self._call = call
        self._cuda = _cuda(device) if cuda is None else cuda

    def warm(self) -> None:
        """Run until the time per synchronized call is steady; that time sets the length of the first block."""
        warm_until_steady(self._synchronized)
        begun = time.perf_counter()
        self._synchronized()
        self.warm_ms = (time.perf_counter() - begun) * 1e3

    def block(self, seconds: float) -> list[float]:
        """Return the mean ms per call of one block of about ``seconds``, after ``settle_s`` of discarded calls."""
        settle(self._synchronized, self.settle_s)
        count = min(max(1, math.ceil(seconds * 1e3 / max(self.warm_ms or 1.0, 1e-3))), _MAX_EVENT_CALLS)
        first, last = (self._cuda.Event(enable_timing=True) for _ in range(2))
        stream = self._cuda.current_stream(self.device)
        first.record(stream)
        for _ in range(count):
            self._call()
        last.record(stream)
        last.synchronize()
        self.warm_ms = float(first.elapsed_time(last)) / count
        return [self.warm_ms]

    def _synchronized(self) -> None:
        self._call()
        self._cuda.synchronize(self.device)


def block_seconds(arms: Sequence[CallArm]) -> float:
    """Return the length of a block: five calls of the slowest arm by its ``warm_ms``, between 30 and 250 ms.

    Short blocks leave room for more rounds, which narrow an interval; the median of a block needs a few calls.
    """
    slowest = max((arm.warm_ms or 0.0 for arm in arms), default=0.0)
    return min(max(_CALLS_IN_BLOCK * slowest / 1e3, _BLOCK_RANGE_S[0]), _BLOCK_RANGE_S[1])


def _cuda(device: str) -> Any:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"device={device!r} needs a CUDA device, and torch finds none. Leave device out to time by the CPU's clock."
        )
    return torch.cuda


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
