"""The client of a *time* worker: an engine in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.core.gpus import GpuMemory
from workbench.engine.backends import runs_module
from workbench.study.plan.trials import Trial
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.process import CancelToken, WorkerError, WorkerProcess
from workbench.study.workers.protocol import examples_folder
from workbench.timing.blocks import Block

ENERGY_S = 1.0
"""Seconds of calls that the energy of a trial is measured over."""
REST_S = 0.5
"""Seconds that the power of the idle machine is measured over, before."""
Figure = tuple[float | None, str | None]
"""A figure with a note: the reason if it is None, otherwise its source."""
_ENERGY_ROOM = 8
"""Times the seconds of an energy measurement that must be left of the budget for one."""


@dataclass(frozen=True)
class TimingSetup:
    """Settings of every timing process of a run."""

    files: Path
    inputs: Path
    artifact: Callable[[Trial], Path]
    build: bytes
    stop: CancelToken
    policy: WorkerPolicy = field(default_factory=WorkerPolicy)
    trust: bool = True  # a study wrote its artifacts itself, and checks their hashes


@dataclass
class EngineProcess:
    """An engine in a process of its own, an :class:`workbench.timing.interleave.Arm`."""

    name: str
    trial: Trial
    setup: TimingSetup
    worker: WorkerProcess
    opened: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    gpu: GpuMemory | None = None

    @classmethod
    def start(cls, trial: Trial, setup: TimingSetup, *, name: str = "") -> EngineProcess:
        """Start the process, which imports its runtime in the background."""
        name = name or trial.key
        hello = {"backend": trial.backend, "allocator": dict(trial.options).get("allocator", "steady")}
        log = setup.files / "logs" / f"{name}.log"
        return cls(name, trial, setup, WorkerProcess("time", hello, log=log, stop=setup.stop, policy=setup.policy))

    def open(self) -> None:
        """Load the artifact."""
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
        """Run until the latency is steady."""
        self.opened["steady"] = self.worker.ask("warm")["steady"]
        if self.gpu is not None:
            self.gpu.read()  # before the next arm loads its model, maybe on the same device

    def block(self, seconds: float) -> Block:
        """Run one block of calls."""
        return Block.from_dict(self.worker.ask("block", seconds=seconds))

    def measure_footprint(self) -> None:
        """Measure memory and energy once, before an evaluation adds its own."""
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
            mj, note = self.worker.ask("energy", seconds=ENERGY_S, idle_s=REST_S)["energy"]
        except WorkerError as error:  # a counter that fails must not fail the row
            return None, f"It could not be measured: {error}"
        return mj, note

    def evaluate(self, outputs: Path, on_event: Callable[[dict[str, Any]], None], *, split: str = "evaluation") -> None:
        """Run the inputs of a split and write the outputs into a folder."""
        inputs, size = str(self.setup.inputs / split), self.trial.batch_size
        self.worker.ask("evaluate", on_event=on_event, inputs=inputs, outputs=str(outputs), batch_size=size)

    def end(self, *, kill: bool = False) -> None:
        """End the process; ``kill`` does not wait for its work."""
        self.worker.close(kill=kill)
