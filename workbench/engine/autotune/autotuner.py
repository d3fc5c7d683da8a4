"""Measure backends and settings of one model, interleaved, and choose by the 95 % CI of time ratios.

By default ``backend="auto"`` measures torch-eager, onnxruntime and openvino, which load in about a second each.
torch-compile and aot-inductor run a C++ compiler for seconds to minutes, and torchscript is deprecated: they are
measured only if ``InferenceConfig.candidates`` names them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, WorkbenchError
from workbench.core.machine import available_cores, default_threads
from workbench.engine.autotune.result import TIME_UP, Candidate, TunedSetting, TuneResult, describe, judge
from workbench.engine.backends import get_backend
from workbench.engine.backends.base import ModelSource, Session
from workbench.engine.config import MEMORY_FORMATS, InferenceConfig
from workbench.engine.loading.load import LoadedModel, load_checked, load_compared
from workbench.engine.names import MODULE_BACKENDS
from workbench.timing.blocks import Block
from workbench.timing.interleave import Arm, CallArm, interleave
from workbench.timing.pace import PaceRatio, Timing, pace_ratio
from workbench.timing.settling import SETTLE_S

GOALS = ("latency", "throughput")
FINAL_SHARE = 0.35
"""Share of the budget for the deciding measurement."""
_WARM_CALLS = 3
_BLOCK_S, _ROUNDS = 0.05, 40
_BACKEND_BLOCK_S, _BACKEND_ROUNDS, _BACKENDS_S = 0.03, 7, 5.0
"""Clearly slower backends drop out after so many rounds."""


def axes(config: InferenceConfig, goal: str) -> dict[str, list[Any]]:
    """Return the options to try with their values, in order; for ``backend="auto"`` pairs of backend and settings."""
    allowed, physical = available_cores(), default_threads()
    if config.backend == "auto":
        spins = config.spin is None and (config.threads or physical) > 1
        pairs: list[Any] = [(name, {}) for name in dict.fromkeys(config.candidates)]
        if spins and ("onnxruntime", {}) in pairs:
            pairs.insert(pairs.index(("onnxruntime", {})) + 1, ("onnxruntime", {"spin": False}))
        return {"backend": pairs}
    counts = [2**power for power in range(allowed.bit_length()) if 2**power <= allowed]
    options: dict[str, list[Any]] = {}
    if get_backend(config.backend).capabilities.threads != "none":
        options["threads"] = sorted({*counts, physical, allowed})
    if config.backend in MODULE_BACKENDS:
        options["memory_format"] = list(MEMORY_FORMATS)
    if config.backend == "onnxruntime":
        options["spin"] = [True, False]
    if config.backend == "openvino" and goal == "throughput":
        # First: a small model may be fastest on a single thread, which leaves nothing to share between streams.
        options = {"streams": sorted({*counts, physical} - {1}), **options}
    return options


class Autotuner:
    """Try the axes of a config one after the other, each on top of the best so far, within ``budget_s`` seconds.

    ``inputs`` are flat arrays of one call, by default the source's examples. Without any no time is measured, and the
    first backend is taken.
    """

    def __init__(
        self,
        source: ModelSource,
        config: InferenceConfig,
        inputs: Arrays | None = None,
        *,
        goal: str = "latency",
        budget_s: float = 0.0,
    ) -> None:
        if inputs is None and source.reference is not None:
            inputs = source.reference.tiled_inputs(source.io.batch or config.batch_size)
        self._source, self._config, self._inputs = source, config, inputs or []
        self._goal, self._budget = goal, budget_s
        self._axes = axes(config, goal)
        self._measures = inputs is not None
        self._begun = time.perf_counter()
        self._longest_load = 0.0
        self._table: list[TunedSetting] = []

    def choose_backend(self) -> tuple[LoadedModel, tuple[Candidate, ...]]:
        """Return the fastest backend that agrees with the reference, and the table, fastest first; or EngineError."""
        models: dict[str, tuple[Candidate, LoadedModel]] = {}
        rejected: dict[str, Candidate] = {}
        for name, settings in self._axes["backend"]:
            if name in rejected:
                continue
            candidate = Candidate(name, settings=settings)
            try:
                model = load_compared(name, self._source, self._config.replace(**settings))
            except WorkbenchError as error:
                rejected[name] = Candidate(name, reason=str(error))
                continue
            if model.agreement is not None:
                candidate = dataclasses.replace(candidate, max_abs_diff=model.agreement.max_abs_diff)
            if model.problem:
                model.session.close()
                rejected[name] = dataclasses.replace(candidate, reason=model.problem, settings={})
            else:
                models[candidate.name] = candidate, model
        if not models:
            reasons = "; ".join(f"{name}: {candidate.reason}" for name, candidate in rejected.items())
            raise EngineError(f"No backend can run {self._source.label} here. {reasons}")
        medians = self._backend_medians({label: model.session for label, (_, model) in models.items()})
        ranked = sorted(models, key=lambda label: medians.get(label, 0.0))
        for label in ranked[1:]:
            models[label][1].session.close()
        table = [dataclasses.replace(models[label][0], median_ms=medians.get(label)) for label in ranked]
        return models[ranked[0]][1], (*table, *rejected.values())

    def _backend_medians(self, sessions: Mapping[str, Session]) -> dict[str, float]:
        """Return ms per call, by the ratio to the fastest in common rounds; clearly slower sessions drop out early."""
        if not self._measures:
            return {}
        arms = {label: self._warm_arm(label, session, 1) for label, session in sessions.items()}
        times: dict[str, list[Block]] = {label: [] for label in sessions}

        def ratio(label: str) -> PaceRatio:
            return pace_ratio(times[label], times[best][: len(times[label])])

        left, end = list(sessions), time.perf_counter() + _BACKENDS_S
        while True:
            fresh = interleave(
                [arms[label] for label in left],
                rounds=(2, _BACKEND_ROUNDS),
                block_s=_BACKEND_BLOCK_S,
                budget_s=end - time.perf_counter(),
            )
            for label, blocks in fresh.timed.items():
                times[label] += blocks
            medians = {label: Timing.of(times[label]).p50 for label in left}
            best = min(left, key=lambda label: medians[label])
            left = [label for label in left if label == best or ratio(label).low <= 1.0]
            if len(left) == 1 or time.perf_counter() > end:
                return {label: medians[best] * ratio(label).ratio for label in sessions}

    def tune(self) -> TuneResult:
        """Measure the other axes, then the best setting once more to decide."""
        best: dict[str, Any] = {}
        with self._loaded("default", {}) as default:
            for number, (name, values) in enumerate(self._axes.items(), start=1):
                end = self._begun + self._budget * (1 - FINAL_SHARE) * number / len(self._axes)
                best = self._stage(default, name, values, best, end)
            # Measured anew, because the first of many was also lucky.
            end = self._begun + self._budget
            final = self._measure(default, {describe(best): best}, "final", end)[0][0] if best else None
        verdict = judge(final, self._table)
        changes = best if verdict.won else {}
        return TuneResult(
            backend=self._config.backend,
            batch_size=self._source.io.batch or self._config.batch_size,
            goal=self._goal,
            changes=changes,
            config=self._config.replace(**changes),
            table=tuple(self._table),
            verdict=verdict.text,
            seconds=time.perf_counter() - self._begun,
            decided=verdict.decided,
        )

    def _stage(
        self, default: Arm, name: str, values: Sequence[Any], best: dict[str, Any], end: float
    ) -> dict[str, Any]:
        """Measure the values of one option on top of the best so far; return the best now."""
        current = best.get(name, _effective(self._config, name))
        changed = [{**best, name: value} for value in values if value != current]
        settings = {describe(changes): changes for changes in ([best, *changed] if best else changed)}
        rows, times = self._measure(default, settings, name, end)
        if best and describe(best) not in times:
            return best
        base = times.get(describe(best) if best else "default")
        faster = [row for row in rows if row.name in times and row.changes != best and _beats(times[row.name], base)]
        return dict(min(faster, key=lambda row: row.ratio or 1.0).changes) if faster else best

    def _measure(
        self, default: Arm, settings: Mapping[str, dict[str, Any]], stage: str, end: float
    ) -> tuple[list[TunedSetting], Mapping[str, list[Block]]]:
        # Slow loading takes time from later options, never from the deciding measurement.
        load_by = end if stage == "final" else self._begun + self._budget * (1 - FINAL_SHARE)
        rows: list[TunedSetting] = []
        times: Mapping[str, list[Block]] = {}
        with contextlib.ExitStack() as stack:
            arms: list[Arm] = []
            for name, changes in settings.items():
                try:
                    if time.perf_counter() + self._longest_load > load_by:
                        raise _NotMeasured(TIME_UP)
                    arms.append(stack.enter_context(self._loaded(name, changes)))
                except WorkbenchError as error:
                    rows.append(TunedSetting(name, stage, changes, reason=str(error)))
            if arms:
                left = end - time.perf_counter()
                times = interleave([default, *arms], rounds=(2, _ROUNDS), block_s=_BLOCK_S, budget_s=left).timed
                if not any(row.stage == "default" for row in self._table):
                    threads = self._config.threads or default_threads()
                    name = f"default ({threads} thread{'s' if threads > 1 else ''})"
                    self._table.insert(0, _row(name, "default", {}, times["default"], times["default"]))
                rows += [_row(arm.name, stage, settings[arm.name], times[arm.name], times["default"]) for arm in arms]
        self._table += rows
        return rows, times

    @contextlib.contextmanager
    def _loaded(self, name: str, changes: Mapping[str, Any]) -> Iterator[Arm]:
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
            arm = self._warm_arm(name, session, calls)
            self._longest_load = max(self._longest_load, time.perf_counter() - begun)
            yield arm
        finally:
            session.close()

    def _warm_arm(self, name: str, session: Session, calls: int) -> Arm:
        for _ in range(_WARM_CALLS):
            session.run(self._inputs)
        return _timed_arm(name, functools.partial(session.run, self._inputs), calls)


class _NotMeasured(WorkbenchError):
    """A setting is not worth a measurement."""


def _effective(config: InferenceConfig, name: str) -> Any:
    """Return the value of an option, with None resolved."""
    if name == "threads":
        return config.threads or default_threads()
    return config.spin is not False if name == "spin" else getattr(config, name)


def _row(name: str, stage: str, changes: Mapping[str, Any], times: list[Block], default: list[Block]) -> TunedSetting:
    ratio = pace_ratio(times, default)
    return TunedSetting(
        name, stage, changes, Timing.of(times).p50, ratio.ratio, ratio.low, ratio.high, rounds=len(times)
    )


def _beats(times: list[Block], base: list[Block] | None) -> bool:
    return base is not None and pace_ratio(times, base).high < 1.0


def _timed_arm(name: str, call: Callable[[], object], calls: int) -> Arm:
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

        with ThreadPoolExecutor(self._threads) as threads:
            list(threads.map(work, range(self._threads)))
        return [(time.perf_counter() - begun) * 1e3 / sum(counts)]
