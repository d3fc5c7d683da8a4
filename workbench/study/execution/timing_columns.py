"""The columns of a row from its timing, with notes in place of missing values."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.files import atomic_write, write_json
from workbench.core.stats import ASSUMED_NOISE, verdict
from workbench.engine.backends import runs_module
from workbench.measure.comparison.compare import MANY_FAULTS
from workbench.measure.comparison.noise import machine_floor
from workbench.study.plan.shapes import Shape
from workbench.study.plan.trials import Trial
from workbench.study.workers.timing_client import EngineProcess
from workbench.timing.blocks import MAX_WAIT, Block, usage_per_call
from workbench.timing.interleave import Rounds
from workbench.timing.pace import Timing, pace_ratio

FOOTPRINT = ("peak_rss_mib", "peak_pss_mib", "gpu_memory_mib", "allocator_peak_mib", "energy_mj_per_sample")
_WEIGHTS = ("weights.safetensors", "exported.pt2")


@dataclass(frozen=True)
class NoiseFloor:
    """The A/A noise floor: the share up to which differences count as noise, and its source.

    ``ratio`` is that of two baseline processes with its 95 % CI, None without an A/A test of this trial.
    """

    floor: float = ASSUMED_NOISE
    source: str = "the A/A test of this machine"
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


class NoiseFloors:
    """The A/A noise floors of a study, kept in a file; never below that of the machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ratios: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
        self._least = machine_floor()

    def measure(self, baseline: Trial, first: Sequence[Block], second: Sequence[Block]) -> None:
        """Record the ratio of two processes of the baseline."""
        ratio = pace_ratio(first, second)
        self._ratios[baseline.key] = [ratio.ratio, ratio.low, ratio.high]
        write_json(self._path, self._ratios)

    def of(self, baseline: Trial) -> NoiseFloor:
        """Return the floor of a baseline; without an A/A test of its own, the largest of the others."""
        own = self._ratios.get(baseline.key)
        apart = max((_apart(*values) for values in ([own] if own else self._ratios.values())), default=0.0)
        source = "the A/A test of two baseline processes" if apart > self._least else NoiseFloor.source
        floor = NoiseFloor(max(apart, self._least), source)
        return floor if own is None else replace(floor, ratio=own[0], low=own[1], high=own[2])


def _apart(ratio: float, low: float, high: float) -> float:
    """Return the difference of two processes beyond the error of their own timing, as a share."""
    error = math.log(high / low) / 2
    return math.expm1(math.sqrt(max(math.log(ratio) ** 2 - error**2, 0.0)))


def timed_columns(
    arm: EngineProcess,
    blocks: Sequence[Block],
    base: Sequence[Block],
    noise: NoiseFloor,
    *,
    timed: Rounds | None = None,
    opened: bool = True,
) -> dict[str, Any]:
    """Return latency, throughput, speedup and verdict; with ``opened`` also memory and load time."""
    timing = Timing.of(blocks)
    notes = {f"latency_ms_{name}": reason for name, reason in timing.notes.items() if name != "low"}
    if "low" in timing.notes:
        notes |= dict.fromkeys(("latency_ms_low", "latency_ms_high"), timing.notes["low"])
    ratio = pace_ratio(base, blocks, floor=noise.floor)
    faults, switches = usage_per_call(blocks)
    columns = {
        "latency_ms_p50": timing.p50,
        "latency_ms_iqr": timing.iqr,
        "latency_ms_low": timing.low,
        "latency_ms_high": timing.high,
        "latency_ms_p90": timing.p90,
        "latency_ms_p99": timing.p99,
        "throughput_per_s": arm.trial.batch_size * 1e3 / timing.p50,
        "speedup": ratio.ratio,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
        "verdict": verdict(ratio.low, ratio.high, floor=noise.floor),
        "estimator": ratio.estimator,
        "noise_floor": noise.floor,
        "page_faults_per_call": faults,
        "context_switches_per_call": switches,
        "allocator": arm.opened.get("allocator"),
        "conditions": None if timed is None or timed.conditions is None else str(timed.conditions),
    }
    if timed is not None and timed.notes:
        notes["conditions"] = " ".join(timed.notes)
    elif columns["conditions"] is None:
        notes["conditions"] = "System load was not monitored during this measurement."
    if faults is None:
        notes |= dict.fromkeys(("page_faults_per_call", "context_switches_per_call"), "Not counted for this trial.")
    elif faults > MANY_FAULTS:
        notes["page_faults_per_call"] = "The allocator returns memory to the kernel after every call."
    if not arm.opened.get("steady", True):
        notes["latency_ms_p50"] = "The warm-up did not become steady within its limit."
    if noise.floor > ASSUMED_NOISE:
        notes["verdict"] = f"Noise floor {noise.floor:.1%}, from {noise.source}."
    if max(ratio.waited) > MAX_WAIT:
        base_share, share = (f"{100 * waited:.0f} %" for waited in ratio.waited)
        notes["speedup"] = (
            f"Even the fastest calls waited for a core ({base_share} of the time in the baseline, {share} in this "
            "trial). The 95 % CI includes that uncertainty."
        )
    return {**columns, "notes": notes, **(_opened_columns(arm, notes) if opened else {})}


def baseline_columns(
    arm: EngineProcess, blocks: Sequence[Block], noise: NoiseFloor, timed: Rounds | None = None
) -> dict[str, Any]:
    """Return the columns of the baseline: its speedup is 1, with the interval of the A/A test."""
    columns = timed_columns(arm, blocks, blocks, noise, timed=timed)
    columns |= {"speedup": 1.0, "speedup_low": None, "speedup_high": None, "verdict": "same"}
    if noise.low is None or noise.high is None:
        columns["notes"] |= dict.fromkeys(("speedup_low", "speedup_high"), "This is the baseline: 1 by definition.")
    else:
        columns |= {"speedup_low": min(1.0, noise.low), "speedup_high": max(1.0, noise.high)}
        columns["notes"]["speedup"] = "1 by definition; the interval is that of the A/A test of two processes."
    return columns


def _opened_columns(arm: EngineProcess, notes: dict[str, str]) -> dict[str, Any]:
    """Return cold start, difference from torch, memory, and the engine's notes."""
    diff = arm.opened["max_abs_diff"]
    if diff is None or not math.isfinite(diff):
        notes["max_abs_diff"] = "The outputs were not compared with torch." if diff is None else f"It is {diff}."
        diff = None
    if arm.opened["notes"]:
        notes["backend"] = " ".join(arm.opened["notes"])
    return {**cold_columns(arm, notes), "max_abs_diff": diff, **footprint_columns(arm, notes)}


def footprint_columns(arm: EngineProcess, notes: dict[str, str]) -> dict[str, float | None]:
    """Return memory and energy of an arm; their sources and reasons go into ``notes``."""
    columns: dict[str, float | None] = {}
    for name in FOOTPRINT:
        columns[name], note = arm.figures.get(name, (None, None))
        if note or columns[name] is None:
            notes[name] = note or "It was not measured."
    return columns


def cold_columns(arm: EngineProcess, notes: dict[str, str]) -> dict[str, float | None]:
    """Return the cold start in ms: loading, compiling and the first call, which add up.

    A separate compilation is not in ``load_ms``. Imports of the runtime and the warm-up are not included.
    """
    cold, backend = arm.opened["cold"], arm.trial.backend
    compiled, first = cold["compile_s"], cold["first_call_s"]
    if compiled is None:
        notes["compile_ms"] = f"Part of load_ms: {backend} compiles while it loads."
    if first is None:
        notes["first_call_ms"] = "The outputs were not compared with torch, which is the first call."
    return {
        "load_ms": 1e3 * (cold["load_s"] - (compiled or 0.0)),
        "compile_ms": None if compiled is None else 1e3 * compiled,
        "first_call_ms": None if first is None else 1e3 * first,
    }


def shape_notes(trial: Trial, own: Shape) -> dict[str, str]:
    """Return the notes of a row whose inputs were cut or repeated to another size."""
    if set(trial.shape) <= set(own):
        return {}
    note = "At the inputs' own sizes, not at those of this row."
    return {"macs": note, "first_call_ms": note, "shape": "The example inputs were cut, or repeated from the start."}


def size_columns(folder: Path, backend: str) -> dict[str, Any]:
    """Return the size in MiB of the file that the backend loads, with its name as the note."""
    names = _WEIGHTS if runs_module(backend) else ("model.onnx",)
    for name in names:
        paths = [folder / name, *folder.glob(f"{name}.data")]
        if paths[0].exists():
            size = sum(path.stat().st_size for path in paths) / 2**20
            return {"size_mib": size, "notes": {"size_mib": f"The size of {name}."}}
    return {"size_mib": None, "notes": {"size_mib": f"The artifact has no {' or '.join(names)}."}}


def save_samples(folder: Path, blocks: Sequence[Block], base: Sequence[Block]) -> str:
    """Write the raw latencies of a trial and of its baseline; return the name, a hash of the content.

    ``arm_0`` holds the ms of the arm's first block, and ``arm_wait_0`` the ms that its threads waited for a core.
    """
    arrays = {}
    for name, kind in (("arm", blocks), ("base", base)):
        for i, block in enumerate(kind):
            arrays[f"{name}_{i}"] = block.ms
            if block.wait_ms is not None:
                arrays[f"{name}_wait_{i}"] = block.wait_ms
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    name = f"{hashlib.sha256(content.getvalue()).hexdigest()[:16]}.npz"
    with atomic_write(folder / name) as path:
        path.write_bytes(content.getvalue())
    return name
