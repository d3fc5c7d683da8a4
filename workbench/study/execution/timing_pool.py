"""The processes of a group and of the baseline, timed interleaved: one block of one process at a time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.core.errors import TrialFailed
from workbench.engine.backends.base import runs_on_gpu
from workbench.study.plan.trials import Trial
from workbench.study.workers.timing_client import EngineProcess, TimingSetup
from workbench.timing.blocks import Block
from workbench.timing.conditions import LoadMonitor
from workbench.timing.interleave import Rounds, interleave
from workbench.timing.pace import pace_ratio

AA_REPLICA = "replica"
"""Name of the second process of the baseline, for the A/A test."""
_ENOUGH = 0.05
_RESAMPLES = 300


@dataclass(frozen=True)
class GroupTiming:
    """The timing of a group: rounds, the arms that were timed by trial key, and the errors of the others."""

    rounds: Rounds
    arms: dict[str, EngineProcess]
    failed: dict[str, TrialFailed]

    def blocks(self, trial: Trial) -> list[Block]:
        """Return the blocks of a trial."""
        return self.rounds.timed[self.arms[trial.key].name]


class TimingPool:
    """Keeps the baseline's process, and starts, times and ends the processes of groups."""

    def __init__(self, setup: TimingSetup) -> None:
        self._setup = setup
        self._baseline: EngineProcess | None = None
        self._next_baseline: EngineProcess | None = None
        self._started: dict[str, EngineProcess] = {}

    def prestart(self, trials: Sequence[Trial], *, replica: Trial | None = None) -> None:
        """Start the processes of the next group, so that their imports overlap with current work."""
        current = self._baseline.trial.key if self._baseline is not None else None
        for trial in trials:
            if trial.baseline and self._next_baseline is None and trial.key != current:
                self._next_baseline = EngineProcess.start(trial, self._setup, name=f"baseline-{trial.key}")
        arms = {trial.key: trial for trial in trials if not trial.baseline}
        arms |= {} if replica is None else {AA_REPLICA: replica}
        for name, trial in arms.items():
            if name not in self._started:
                self._started[name] = EngineProcess.start(trial, self._setup, name=name)

    def start_baseline(self, trial: Trial) -> EngineProcess:
        """Start the baseline's process for a point, unless it runs already."""

        def fits(arm: EngineProcess) -> bool:
            return arm.trial.key == trial.key and arm.worker.alive

        if self._baseline is not None and not fits(self._baseline):
            self._baseline.end()
            self._baseline = None
        if self._baseline is None and self._next_baseline is not None:
            following, self._next_baseline = self._next_baseline, None
            if fits(following):
                self._baseline = following
            else:
                following.end()
        if self._baseline is None:
            self._baseline = EngineProcess.start(trial, self._setup, name=f"baseline-{trial.key}")
        return self._baseline

    def baseline(self, trial: Trial) -> EngineProcess:
        """Return the baseline's process for a point, open and warm."""
        arm = self.start_baseline(trial)
        if not arm.opened:
            arm.open()
            arm.warm()
        return arm

    def time(
        self,
        trials: Sequence[Trial],
        baseline: Trial,
        *,
        after_round: Callable[[int], None],
        enough: Callable[[Mapping[str, list[Block]]], bool] | None = None,
        replica: bool = False,
        footprint: bool = True,
        **limits: Any,
    ) -> GroupTiming:
        """Time a group interleaved with the baseline, with a ``replica`` for the A/A test; errors as of the baseline.

        A lost baseline is restarted once. ``enough`` and ``limits`` are those of :func:`time_arms`. Memory and energy
        are measured if ``footprint``.
        """
        reference = self.start_baseline(baseline)
        self.prestart(trials, replica=baseline if replica else None)
        failed: dict[str, TrialFailed] = {}
        names = [t.key for t in trials if not t.baseline] + ([AA_REPLICA] if replica else [])
        with contextlib.suppress(TrialFailed):  # the baseline is tried again below
            reference.worker.wait_ready()
        arms = open_arms({name: self._started[name] for name in names}, failed)
        for attempt in (1, 2):
            try:
                reference = self.baseline(baseline)
                living = [reference, *(arm for arm in arms.values() if arm.worker.alive)]
                timed = time_arms(living, after_round=after_round, enough=enough, **limits)
                break
            except TrialFailed:
                if attempt == 2:
                    raise
        failed |= timed.lost
        for name, arm in arms.items():
            if name not in timed.blocks and name not in failed:
                failed[name] = _end_reason(arm)
        arms = {name: arm for name, arm in arms.items() if name not in failed}
        if footprint:
            measure_footprints({name: arm for name, arm in arms.items() if name != AA_REPLICA}, failed)
            arms = {name: arm for name, arm in arms.items() if name not in failed}
            if reference.worker.alive:
                reference.measure_footprint()
        return GroupTiming(timed, {**arms, baseline.key: reference}, failed)

    def settle(self) -> None:
        """Wait until the processes of the next group have finished their imports."""
        for arm in filter(None, (*self._started.values(), self._next_baseline)):
            with contextlib.suppress(TrialFailed):  # raised again when the arm is opened
                arm.worker.wait_ready()

    def end(self, names: Sequence[str]) -> None:
        """End the processes of arms."""
        for name in names:
            arm = self._started.pop(name, None)
            if arm is not None:
                arm.end()

    def close(self, *, kill: bool = False) -> None:
        """End every process; ``kill`` does not wait for their work."""
        arms = [*filter(None, (*self._started.values(), self._baseline, self._next_baseline))]
        self._started, self._baseline, self._next_baseline = {}, None, None
        for arm in arms:
            arm.end(kill=kill)


def time_arms(
    arms: Sequence[EngineProcess],
    *,
    after_round: Callable[[int], None],
    enough: Callable[[Mapping[str, list[Block]]], bool] | None = None,
    **limits: Any,
) -> Rounds:
    """Time open arms interleaved, the first one as the reference, and monitor the machine's load meanwhile.

    ``enough`` ends the timing early, by default once every speedup has a narrow interval. ``limits`` are ``rounds``,
    ``block_s`` and ``budget_s`` of :func:`interleave`.
    """
    monitor = LoadMonitor(gpu=any(runs_on_gpu(arm.opened.get("placement")) for arm in arms))
    enough = enough or functools.partial(_is_narrow, arms[0].name if arms else "")
    return interleave(arms, enough=enough, after_round=after_round, monitor=monitor, **limits)


def open_arms(started: Mapping[str, EngineProcess], failed: dict[str, TrialFailed]) -> dict[str, EngineProcess]:
    """Open and warm arms one after the other, once all imports are over; errors go into ``failed``."""
    ready = _surviving(started, lambda arm: arm.worker.wait_ready(), failed)
    return _surviving(ready, _open, failed)


def _open(arm: EngineProcess) -> None:
    arm.open()
    arm.warm()


def measure_footprints(arms: Mapping[str, EngineProcess], failed: dict[str, TrialFailed]) -> dict[str, EngineProcess]:
    """Measure memory and energy of arms, and return those that live; errors of the others go into ``failed``."""
    return _surviving(arms, lambda arm: arm.measure_footprint(), failed)


def _surviving(
    arms: Mapping[str, EngineProcess], step: Callable[[EngineProcess], None], failed: dict[str, TrialFailed]
) -> dict[str, EngineProcess]:
    kept = {}
    for name, arm in arms.items():
        try:
            step(arm)
            kept[name] = arm
        except TrialFailed as error:
            failed[name] = error
    return kept


def _end_reason(arm: EngineProcess) -> TrialFailed:
    try:
        arm.worker.ask("memory")
    except TrialFailed as error:
        return error
    return TrialFailed("The process was not timed.")


def _is_narrow(reference: str, blocks: Mapping[str, list[Block]]) -> bool:
    """Return True once every speedup over the reference has a narrow 95 % CI."""
    for name, mine in blocks.items():
        if name != reference:
            ratio = pace_ratio(blocks[reference], mine, resamples=_RESAMPLES)
            if ratio.high / ratio.low > 1 + _ENOUGH:
                return False
    return True
