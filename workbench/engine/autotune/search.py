"""Which settings are fastest for one model on this machine: interleaved, and kept for the next time."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import WorkbenchError
from workbench.core.machine import available_cores, default_threads
from workbench.engine.autotune.result import TIME_UP, TunedSetting, TuneResult, describe, judge
from workbench.engine.autotune.selection import load_checked
from workbench.engine.backends import get_backend
from workbench.engine.backends.base import ModelSource, Session
from workbench.engine.config import MEMORY_FORMATS, InferenceConfig
from workbench.engine.names import MODULE_BACKENDS
from workbench.timing.arms import Arm, CallArm
from workbench.timing.blocks import Block
from workbench.timing.interleave import interleave
from workbench.timing.pace import pace_ratio
from workbench.timing.settling import SETTLE_S
from workbench.timing.summary import Timing

GOALS = ("latency", "throughput")
BLOCK_S = 0.05
FINAL_SHARE = 0.35
"""Of the budget, for the measurement that decides."""
_ROUNDS = 40


def axes(config: InferenceConfig, goal: str) -> dict[str, list[Any]]:
    """Return the options worth trying for a backend and their values, the one looked at first first.

    Examples
    --------
    >>> list(axes(InferenceConfig(backend="torch-eager"), "latency"))
    ['threads', 'memory_format']
    """
    allowed, physical = available_cores(), default_threads()
    counts = [2**power for power in range(allowed.bit_length()) if 2**power <= allowed]
    found: dict[str, list[Any]] = {}
    if get_backend(config.backend).capabilities.threads != "none":
        found["threads"] = sorted({*counts, physical, allowed})
    if config.backend in MODULE_BACKENDS:
        found["memory_format"] = list(MEMORY_FORMATS)
    if config.backend == "onnxruntime":
        found["spin"] = [True, False]
    if config.backend == "openvino" and goal == "throughput":
        # First: with one call at a time a small model may want a single thread, which leaves nothing to share.
        found = {"streams": sorted({*counts, physical} - {1}), **found}
    return found


class Search:
    """Tries one option after the other, each on top of the best so far, and lets a last measurement decide."""

    def __init__(
        self, source: ModelSource, config: InferenceConfig, inputs: Arrays, *, goal: str, budget_s: float
    ) -> None:
        self._source, self._config, self._inputs = source, config, inputs
        self._goal, self._budget = goal, budget_s
        self._begun = time.perf_counter()
        self._longest_load = 0.0
        self._table: list[TunedSetting] = []

    def result(self) -> TuneResult:
        """Measure and decide."""
        best: dict[str, Any] = {}
        stages = axes(self._config, self._goal)
        with self._arm("default", {}) as default:
            for number, (name, values) in enumerate(stages.items(), start=1):
                end = self._begun + self._budget * (1 - FINAL_SHARE) * number / len(stages)
                best = self._stage(default, name, values, best, end)
            # Anew: what came first among many was also lucky, and that luck is not in here.
            end = self._begun + self._budget
            final = self._measure(default, {describe(best): best}, "final", end)[0][0] if best else None
        judged = judge(final, self._table)
        changes = best if judged.won else {}
        return TuneResult(
            backend=self._config.backend,
            batch_size=self._source.io.batch or self._config.batch_size,
            goal=self._goal,
            changes=changes,
            config=self._config.replace(**changes),
            table=tuple(self._table),
            verdict=judged.verdict,
            seconds=time.perf_counter() - self._begun,
            decided=judged.decided,
        )

    def _stage(
        self, default: Arm, name: str, values: Sequence[Any], best: dict[str, Any], end: float
    ) -> dict[str, Any]:
        """Measure the values of one option on top of the best so far; return the best now."""
        given = _in_force(self._config, name)
        several = [{**best, name: value} for value in values if value != best.get(name, given)]
        tried = {describe(changes): changes for changes in ([best, *several] if best else several)}
        rows, times = self._measure(default, tried, name, end)
        if best and describe(best) not in times:
            return best
        base = times.get(describe(best)) if best else times.get("default")
        faster = [row for row in rows if row.name in times and row.changes != best and _beats(times[row.name], base)]
        return dict(min(faster, key=lambda row: row.ratio or 1.0).changes) if faster else best

    def _measure(
        self, default: Arm, tried: Mapping[str, dict[str, Any]], stage: str, end: float
    ) -> tuple[list[TunedSetting], Mapping[str, list[Block]]]:
        # What loads slowly takes its time from the options that come later, not from the measurement that decides.
        load_by = end if stage == "final" else self._begun + self._budget * (1 - FINAL_SHARE)
        rows: list[TunedSetting] = []
        times: Mapping[str, list[Block]] = {}
        with contextlib.ExitStack() as stack:
            arms: list[Arm] = []
            for name, changes in tried.items():
                try:
                    if time.perf_counter() + self._longest_load > load_by:
                        raise _NotMeasured(TIME_UP)
                    arms.append(stack.enter_context(self._arm(name, changes)))
                except WorkbenchError as error:
                    rows.append(TunedSetting(name, stage, changes, reason=str(error)))
            if arms:
                left = end - time.perf_counter()
                times = interleave([default, *arms], rounds=(2, _ROUNDS), block_s=BLOCK_S, budget_s=left).timed
                if not any(row.stage == "default" for row in self._table):
                    threads = self._config.threads or default_threads()
                    name = f"default ({threads} thread{'s' if threads > 1 else ''})"
                    self._table.insert(0, _row(name, "default", {}, times["default"], times["default"]))
                rows += [_row(arm.name, stage, tried[arm.name], times[arm.name], times["default"]) for arm in arms]
        self._table += rows
        return rows, times

    @contextlib.contextmanager
    def _arm(self, name: str, changes: Mapping[str, Any]) -> Iterator[Arm]:
        """Load the model with some changes; yield its arm."""
        begun = time.perf_counter()
        session = load_checked(self._source, self._config.replace(**changes)).session
        try:
            calls = getattr(session, "parallel_calls", 1)
            if changes.get("streams", calls) != calls:
                raise _NotMeasured(f"not measured: no more than {calls} at once with so many threads")
            if changes.get("spin") is False and session.threads == 1:
                raise _NotMeasured("not measured: with one thread there is no worker that could spin")
            if "memory_format" in changes and any(note.startswith("memory_format=") for note in session.notes):
                raise _NotMeasured("not measured: the model has no weight or input with four dimensions")
            for _ in range(2):
                session.run(self._inputs)
            self._longest_load = max(self._longest_load, time.perf_counter() - begun)
            yield _timed_arm(name, session, self._inputs, calls)
        finally:
            session.close()


def _in_force(config: InferenceConfig, name: str) -> Any:
    """Return the value of an option, where None stands for one: what that is."""
    if name == "threads":
        return config.threads or default_threads()
    return config.spin is not False if name == "spin" else getattr(config, name)


class _NotMeasured(WorkbenchError):
    """A setting is not worth a measurement; the text says why."""


def _row(name: str, stage: str, changes: Mapping[str, Any], times: list[Block], default: list[Block]) -> TunedSetting:
    ratio = pace_ratio(times, default)
    return TunedSetting(
        name, stage, changes, Timing.of(times).p50, ratio.ratio, ratio.low, ratio.high, rounds=len(times)
    )


def _beats(times: list[Block], base: list[Block] | None) -> bool:
    return base is not None and pace_ratio(times, base).high < 1.0


def _timed_arm(name: str, session: Session, inputs: Arrays, calls: int) -> Arm:
    call = functools.partial(session.run, inputs)
    return CallArm(name, call) if calls == 1 else ParallelArm(name, call, calls)


class ParallelArm:
    """An arm of several threads that call at once; a block is the mean ms per call over all of them."""

    def __init__(self, name: str, call: Callable[[], object], threads: int) -> None:
        self.name, self._call, self._threads = name, call, threads

    def block(self, seconds: float) -> list[float]:
        """Call from every thread, at least once each; settling is part of the block."""
        counts = [0] * self._threads
        begun = time.perf_counter()
        end = begun + SETTLE_S + seconds

        def work(number: int) -> None:
            while not counts[number] or time.perf_counter() < end:
                self._call()
                counts[number] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [(time.perf_counter() - begun) * 1e3 / sum(counts)]
