"""The effect of the C allocator on torch eager, timed in two processes: default and steady."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.artifact import save_variant
from workbench.core.allocator import ALLOCATORS
from workbench.core.checks import given, require_int, require_positive
from workbench.core.errors import ConfigError, TrialFailed
from workbench.core.machine import default_threads
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.execution.timing_pool import open_arms
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import planned
from workbench.study.workers.prepare_client import pack_task
from workbench.study.workers.process import CancelToken
from workbench.study.workers.protocol import examples_folder, save_arrays
from workbench.study.workers.timing_client import EngineProcess, TimingSetup
from workbench.tasks.trees import to_numpy
from workbench.timing.blocks import usage_per_call
from workbench.timing.interleave import interleave
from workbench.timing.pace import Timing, pace_ratio

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

_BLOCK_S = 0.08
_ROUNDS = (6, 40)


@dataclass(frozen=True)
class AllocatorTime:
    """Median latency with the ``"default"`` or ``"steady"`` allocator, and speedup over the default with its 95 % CI.

    ``page_faults_per_call`` is None if the system does not count them; ``peak_rss_mib`` includes the runtime. ``note``
    is about calls that waited for a core, which raise ``ms`` and leave the speedup as it is.
    """

    allocator: str
    ms: float
    speedup: float
    low: float
    high: float
    page_faults_per_call: float | None
    peak_rss_mib: float | None
    note: str = ""

    def __str__(self) -> str:
        faults = "not counted" if self.page_faults_per_call is None else f"{self.page_faults_per_call:.0f}"
        memory = "not known" if self.peak_rss_mib is None else f"{self.peak_rss_mib:.0f} MiB"
        return (
            f"{self.allocator}: {self.ms:.3g} ms, {self.speedup:.2f}x (95 % CI {self.low:.2f}-{self.high:.2f}), "
            f"page faults per call {faults}, peak memory {memory}{f'. {self.note}' if self.note else ''}"
        )


def time_allocators(
    variant: Variant,
    *,
    batch_size: int = 32,
    threads: int | None = None,
    budget_s: float = 6.0,
    progress: ProgressCallback = ignore_progress,
) -> list[AllocatorTime]:
    """Time a variant in torch eager with the default and with the steady allocator, each in a process of its own.

    A study that times on this machine is waited for.

    Parameters
    ----------
    threads : int, optional
        By default the physical cores that this process may use.
    budget_s : float
        Seconds of timing, without the start of the two processes.
    progress : callable
        Receives :class:`Progress` with a message while it waits; raising Cancelled in it ends the wait.

    Raises
    ------
    ConfigError, TrialFailed
        If an argument is out of range; if a process ends, or cannot load the variant.

    Examples
    --------
    >>> for row in wb.time_allocators(wb.Variant.original(wb.tasks.digits())):
    ...     print(row)  # doctest: +SKIP
    """
    from workbench.compress.variant import Variant

    if not isinstance(variant, Variant):
        raise ConfigError(f"time_allocators: variant must be a Variant, got {given(variant)}.")
    require_int("time_allocators: batch_size", batch_size)
    count = default_threads() if threads is None else require_int("time_allocators: threads", threads)
    require_positive("time_allocators: budget_s", budget_s, unit="seconds")
    point = OperatingPoint(batch_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_variant(variant, folder / "artifact", batch=batch_size)
        save_arrays(to_numpy(variant.task.examples(batch_size)), examples_folder(folder / "inputs", point))
        build = pack_task(variant.task).build
        setup = TimingSetup(folder, folder / "inputs", lambda _: folder / "artifact", build, CancelToken())
        started = {}
        with (
            machine_lock(exclusive=True, stop=setup.stop, notify=lambda text: progress(Progress("time", message=text))),
            contextlib.ExitStack() as ends,
        ):
            for allocator in ALLOCATORS:
                options = (("allocator", allocator),)
                trial = planned(variant.task.fingerprint, variant.recipe, "torch-eager", point, count, options)
                started[allocator] = EngineProcess.start(trial, setup, name=allocator)
                ends.callback(started[allocator].end)
            return _timed(started, budget_s)


def _timed(started: dict[str, EngineProcess], budget_s: float) -> list[AllocatorTime]:
    failed: dict[str, TrialFailed] = {}
    arms = open_arms(started, failed)
    for error in failed.values():
        raise error
    timed = interleave(list(arms.values()), rounds=_ROUNDS, block_s=_BLOCK_S, budget_s=budget_s).timed
    rows = []
    for name, arm in arms.items():
        ratio = pace_ratio(timed[ALLOCATORS[0]], timed[name])
        faults, _ = usage_per_call(timed[name])
        memory, _ = arm.worker.ask("memory")["rss"]
        timing = Timing.of(timed[name])
        speedup = ratio.ratio, ratio.low, ratio.high
        rows.append(AllocatorTime(name, timing.p50, *speedup, faults, memory, timing.notes.get("p50", "")))
    return rows
