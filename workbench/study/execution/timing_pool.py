"""The bench: the baseline's process and those of a group, timed in turns by a token that the study passes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.core.errors import TrialFailed
from workbench.core.gpus import GpuMemory
from workbench.engine.backends import runs_module
from workbench.engine.loading.placement import runs_on_gpu
from workbench.study.execution.quality import examples_folder, split_folder
from workbench.study.plan.trials import Trial
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.process import CancelToken, WorkerError, WorkerProcess
from workbench.timing.blocks import Block
from workbench.timing.conditions import LoadMonitor
from workbench.timing.interleave import Rounds, interleave
from workbench.timing.pace import pace_ratio

AA_REPLICA = "replica"
ENERGY_S = 1.0
"""Seconds of calls that the energy of a trial is measured over."""
REST_S = 0.5
"""Seconds that the power of the machine at rest is measured for, before."""
Figure = tuple[float | None, str | None]
"""A figure with a word on it: why it is None, or what it is."""
_ENERGY_ROOM = 8
_ENOUGH = 0.05
_RESAMPLES = 300


@dataclass(frozen=True)
class TimingSetup:
    """What every timing process of a run needs to know."""

    files: Path
    inputs: Path
    artifact: Callable[[Trial], Path]
    build: bytes
    stop: CancelToken
    policy: WorkerPolicy = field(default_factory=WorkerPolicy)
    trust: bool = True  # a study wrote its artefacts itself, and their hashes are checked


@dataclass
class EngineProcess:
    """An engine in a process of its own; it is an :class:`workbench.timing.arms.Arm`."""

    name: str
    trial: Trial
    setup: TimingSetup
    worker: WorkerProcess
    opened: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    gpu: GpuMemory | None = None
    evaluated: bool = False

    @classmethod
    def start(cls, trial: Trial, setup: TimingSetup, *, name: str = "") -> EngineProcess:
        """Start the process; it imports its runtime while the study does something else."""
        name = name or trial.key
        worker = WorkerProcess(
            "time",
            {"backend": trial.backend, "allocator": dict(trial.options).get("allocator", "steady")},
            log=setup.files / "logs" / f"{name}.log",
            stop=setup.stop,
            policy=setup.policy,
        )
        return cls(name, trial, setup, worker)

    def open(self) -> None:
        """Load the artefact."""
        self.gpu = GpuMemory(self.worker.pid)
        self.opened = self.worker.ask(
            "open",
            self.setup.build if runs_module(self.trial.backend) else b"",
            artifact=str(self.setup.artifact(self.trial)),
            inputs=str(examples_folder(self.setup.inputs, self.trial.point)),
            batch_size=self.trial.batch_size,
            threads=self.trial.threads,
            options=dict(self.trial.options),
            trust=self.setup.trust,
        )

    def warm(self) -> None:
        """Run until steady."""
        self.opened["steady"] = self.worker.ask("warm")["steady"]
        if self.gpu is not None:
            self.gpu.read()  # before the next arm loads its model: it may be on the same device

    def block(self, seconds: float) -> Block:
        """Hand over the token for one block."""
        return Block.from_dict(self.worker.ask("block", seconds=seconds))

    def measure_footprint(self) -> None:
        """Note what the process took until now and its calls' energy, once: evaluation is not the trial's own."""
        if self.figures:
            return
        answer = self.worker.ask("memory")
        names = {"peak_rss_mib": "rss", "peak_pss_mib": "pss", "allocator_peak_mib": "allocator"}
        figures: dict[str, Figure] = {name: tuple(answer[key]) for name, key in names.items()}
        index = answer["gpu"]
        if index is None or self.gpu is None:
            figures["gpu_memory_mib"] = None, "It ran on the CPU."
        else:
            figures["gpu_memory_mib"] = self.gpu.peak(index)
        figures["energy_mj_per_sample"] = self._energy()
        self.figures = figures

    def _energy(self) -> Figure:
        if self.setup.stop.remaining() < _ENERGY_ROOM * (ENERGY_S + REST_S):
            return None, "The time budget did not allow it."
        try:
            answer = self.worker.ask("energy", seconds=ENERGY_S, idle_s=REST_S)
        except WorkerError as error:  # a counter that fails takes no row along
            return None, f"It could not be measured: {error}"
        mj, said = answer["energy"]
        return mj, said

    def evaluate(self, outputs: Path, on_event: Callable[[dict[str, Any]], None], *, split: str = "evaluation") -> None:
        """Run the inputs of a split and have the outputs written into ``outputs``."""
        self.worker.ask(
            "evaluate",
            on_event=on_event,
            inputs=str(split_folder(self.setup.inputs, split)),
            outputs=str(outputs),
            batch_size=self.trial.batch_size,
        )


@dataclass(frozen=True)
class GroupTiming:
    """What a group gave: the rounds, the arms that came through by trial key, and why the others did not."""

    rounds: Rounds
    arms: dict[str, EngineProcess]
    failed: dict[str, TrialFailed]


class TimingPool:
    """Holds the baseline's process and starts, times and ends the processes of groups."""

    def __init__(self, setup: TimingSetup) -> None:
        self._setup = setup
        self._baseline: EngineProcess | None = None
        self._next: EngineProcess | None = None
        """The baseline of another point, whose imports overlap with what is done before it is needed."""
        self._started: dict[str, EngineProcess] = {}

    def prestart(self, trials: Sequence[Trial], *, replica: Trial | None = None) -> None:
        """Start the processes of the next group, so that their imports overlap with what is done now."""
        for trial in trials:
            current = self._baseline.trial.key if self._baseline is not None else None
            if trial.baseline and self._next is None and trial.key != current:
                self._next = EngineProcess.start(trial, self._setup, name=f"baseline-{trial.key}")
        wanted = [(t.key, t) for t in trials if not t.baseline]
        wanted += [(AA_REPLICA, replica)] if replica is not None else []
        for name, trial in wanted:
            if name not in self._started:
                self._started[name] = EngineProcess.start(trial, self._setup, name=name)

    def start_baseline(self, trial: Trial) -> None:
        """Start the baseline's process for a batch size, unless it runs already."""
        if self._baseline is not None and (self._baseline.trial.key != trial.key or not self._baseline.worker.alive):
            self._baseline.worker.close()
            self._baseline = None
        if self._next is not None and self._baseline is None:
            following, self._next = self._next, None
            if following.trial.key == trial.key and following.worker.alive:
                self._baseline = following
            else:
                following.worker.close()
        if self._baseline is None:
            self._baseline = EngineProcess.start(trial, self._setup, name=f"baseline-{trial.key}")

    def baseline(self, trial: Trial) -> EngineProcess:
        """Return the baseline's arm for a batch size, open and warm."""
        self.start_baseline(trial)
        arm = self._baseline
        if arm is None:
            raise TrialFailed("The baseline's process could not be started.")
        if not arm.opened:
            arm.open()
            arm.warm()
        return arm

    def time(
        self,
        trials: Sequence[Trial],
        baseline: Trial,
        *,
        replica: bool,
        rounds: tuple[int, int],
        block_s: float,
        budget_s: float,
        after_round: Callable[[int], None],
        enough: Callable[[Mapping[str, list[Block]]], bool] | None = None,
        footprint: bool = True,
    ) -> GroupTiming:
        """Time a group against the baseline. A lost baseline is started again once.

        ``enough`` ends the timing early; by default once every speedup over the baseline is known well. Memory and
        energy are measured with ``footprint`` only.

        Raises
        ------
        TrialFailed
            If the baseline cannot be run.
        """
        self.start_baseline(baseline)
        self.prestart(trials, replica=baseline if replica else None)
        failed: dict[str, TrialFailed] = {}
        arms = self._open([t.key for t in trials if not t.baseline] + ([AA_REPLICA] if replica else []), failed)
        for attempt in (1, 2):
            try:
                reference = self.baseline(baseline)
                living = [reference, *(arm for arm in arms.values() if arm.worker.alive)]
                timed = interleave(
                    living,
                    rounds=rounds,
                    block_s=block_s,
                    budget_s=budget_s,
                    enough=enough or functools.partial(narrow, reference.name),
                    after_round=after_round,
                    monitor=LoadMonitor(gpu=any(runs_on_gpu(arm.opened.get("placement")) for arm in living)),
                )
                break
            except TrialFailed:
                if attempt == 2:
                    raise
        failed |= timed.lost
        for name, arm in arms.items():
            if name not in timed.blocks and name not in failed:
                failed[name] = _ended(arm)
        arms = {name: arm for name, arm in arms.items() if name not in failed}
        if footprint:
            rows = {name: arm for name, arm in arms.items() if name != AA_REPLICA}  # the twin has no row
            measure_footprints(rows, failed)
            arms = {name: arm for name, arm in arms.items() if name not in failed}
            if reference.worker.alive:
                reference.measure_footprint()
        return GroupTiming(timed, {**arms, baseline.key: reference}, failed)

    def settle(self) -> None:
        """Wait until the processes that were started for the next group have imported what they need."""
        for arm in (*self._started.values(), *([self._next] if self._next is not None else [])):
            with contextlib.suppress(TrialFailed):  # said where it is used
                arm.worker.wait_ready()

    def end(self, names: Sequence[str]) -> None:
        """End the processes of arms that are done with."""
        for name in names:
            arm = self._started.pop(name, None)
            if arm is not None:
                arm.worker.close()

    def close(self, *, kill: bool = False) -> None:
        """End every process; ``kill`` does not wait for the work they are at."""
        arms = [*self._started.values(), *(arm for arm in (self._baseline, self._next) if arm is not None)]
        self._started, self._baseline, self._next = {}, None, None
        for arm in arms:
            if kill:
                arm.worker.kill()
            else:
                arm.worker.close()

    def _open(self, names: Sequence[str], failed: dict[str, TrialFailed]) -> dict[str, EngineProcess]:
        if self._baseline is not None:
            with contextlib.suppress(TrialFailed):  # the baseline is tried again where it is used
                self._baseline.worker.wait_ready()
        return open_arms({name: self._started[name] for name in names}, failed)


def open_arms(started: Mapping[str, EngineProcess], failed: dict[str, TrialFailed]) -> dict[str, EngineProcess]:
    """Open and warm one after the other once all imports are over, so that load times do not disturb each other."""
    arms = {}
    for name, arm in started.items():
        try:
            arm.worker.wait_ready()
            arms[name] = arm
        except TrialFailed as error:
            failed[name] = error
    for name, arm in list(arms.items()):
        try:
            arm.open()
            arm.warm()
        except TrialFailed as error:
            failed[name] = error
            del arms[name]
    return arms


def measure_footprints(arms: dict[str, EngineProcess], failed: dict[str, TrialFailed]) -> None:
    """Note what every arm's process took; an arm that is lost goes over to ``failed``."""
    for name, arm in list(arms.items()):
        try:
            arm.measure_footprint()
        except TrialFailed as error:
            failed[name] = error
            del arms[name]


def _ended(arm: EngineProcess) -> TrialFailed:
    try:
        arm.worker.ask("memory")
    except TrialFailed as error:
        return error
    return TrialFailed("The process was not timed.")


def narrow(reference: str, blocks: Mapping[str, list[Block]]) -> bool:
    """Return True once every speedup over the reference is known well enough to stop timing."""
    for name, mine in blocks.items():
        if name != reference:
            found = pace_ratio(blocks[reference], mine, resamples=_RESAMPLES)
            if found.high / found.low > 1 + _ENOUGH:
                return False
    return True
