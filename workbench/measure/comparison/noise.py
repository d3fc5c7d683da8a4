"""Measure and cache the A/A noise floor of this machine: the difference between two loads of one model."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.checks import given, require_int, require_nonnegative, require_sequence
from workbench.core.errors import BackendUnavailable, ConfigError
from workbench.core.files import cache_dir, write_json
from workbench.core.machine import describe_machine, fingerprint_id
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.core.stats import ASSUMED_NOISE, Array
from workbench.engine.backends import backend_status, require_backend
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.timing.conditions import LoadMonitor
from workbench.timing.interleave import CallArm, interleave
from workbench.timing.pace import pace_ratio

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

PAIR_S = 2.5
MIN_PAIRS = 6
BATCHES = (1, 8)
_NORMAL = 1.96
"""Standard deviations of a two-sided 95 % interval."""
_LEAST_FLOOR = 0.01
_ROUNDS = (6, 20)
_BLOCK_S = 0.05


@dataclass(frozen=True)
class NoiseFloor:
    """A/A noise floor: the difference between two loads of one model that is noise on this machine.

    Attributes
    ----------
    floor : float
        95 % limit of the difference, at least 0.01 (1 %). The timing error of each pair is removed, because it is part
        of the interval of a comparison already.
    apart : tuple of float
        The latency ratio of each pair.
    machine, fingerprint, measured : str
        The machine with the fingerprint of study rows, and the date.
    disturbed : int
        Pairs that other processes disturbed. If more than a quarter, the floor is ``busy``, and one of an idle machine
        stays in the cache.

    Examples
    --------
    >>> print(NoiseFloor(0.012, (1.004, 0.988), "a machine", "0f", "2026-01-01"))
    A/A noise floor 1.2 % (2 pairs of loads, 2026-01-01)
    """

    floor: float
    apart: tuple[float, ...]
    machine: str
    fingerprint: str
    measured: str
    disturbed: int = 0

    @property
    def busy(self) -> bool:
        """True if more than a quarter of the pairs were disturbed."""
        return 4 * self.disturbed > len(self.apart)

    def __str__(self) -> str:
        source = f"{len(self.apart)} pairs of loads, {self.measured}"
        if self.busy:
            source += f"; {self.disturbed} disturbed, re-run `workbench noise` on an idle machine"
        return f"A/A noise floor {100 * self.floor:.1f} % ({source})"


def measure_noise(
    variant: Variant | None = None,
    *,
    backends: Sequence[str] | None = None,
    batch_size: int | None = None,
    budget_s: float = 60.0,
    keep: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> NoiseFloor:
    """Measure the A/A noise floor from interleaved pairs of loads of one model, and cache it.

    Sessions of one model differ in latency for their whole life because of their memory layout, so the interval of a
    single pair is too narrow for a verdict. :func:`workbench.compare` and studies use the cached floor of this machine
    and these runtime versions.

    Parameters
    ----------
    variant : Variant, optional
        The model to load; by default that of the task ``digits``.
    backends : sequence of str, optional
        Used in rotation; by default the available ones of torch-eager, onnxruntime and openvino.
    batch_size : int, optional
        By default 1 and 8 in rotation: the shorter a call, the more two loads differ.
    budget_s : float
        Seconds for all pairs; at least 6 pairs are measured.
    keep : bool
        Write the result into the cache (``WORKBENCH_CACHE``), unless it is ``busy`` and the cached one is not.

    Examples
    --------
    >>> print(wb.measure_noise())  # doctest: +SKIP
    A/A noise floor 1.6 % (24 pairs of loads, 2026-01-01)
    """
    from workbench.compress.variant import Variant
    from workbench.tasks import digits

    batches = BATCHES if batch_size is None else (require_int("measure_noise: batch_size", batch_size),)
    require_nonnegative("measure_noise: budget_s", budget_s, unit="seconds")
    if not isinstance(variant, Variant | None):
        raise ConfigError(f"measure_noise: variant must be a Variant, got {given(variant)}.")
    chosen = Variant.original(digits()) if variant is None else variant
    names = _running() if backends is None else _named(backends)
    pairs: list[tuple[float, float, bool]] = []
    end = time.perf_counter() + budget_s
    for number, (batch, name) in enumerate(itertools.cycle(itertools.product(batches, names))):
        if number >= MIN_PAIRS and time.perf_counter() >= end:
            break
        progress(Progress("noise", number, 0, f"pair {number + 1}: {name}, batch {batch}"))
        pairs.append(_aa_pair(chosen, name, batch, seed=number))
    floor = _floor([pair[:2] for pair in pairs], disturbed=sum(pair[2] for pair in pairs))
    if keep and not (floor.busy and (cached := cached_noise()) and not cached.busy):
        write_json(_path(), asdict(floor), indent=1)
    return floor


def cached_noise() -> NoiseFloor | None:
    """Return the cached noise floor of this machine and these runtime versions, or None."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = json.loads(_path().read_text(encoding="utf-8"))
        return NoiseFloor(**{**values, "apart": tuple(values["apart"])})
    return None


def machine_floor() -> float:
    """Return the cached noise floor of this machine as a share, otherwise 2 %."""
    return floor_of(cached_noise())


def floor_of(cached: NoiseFloor | None) -> float:
    """Return a noise floor as a share, 2 % for None."""
    return ASSUMED_NOISE if cached is None else cached.floor


def noise_text(floor: NoiseFloor | None) -> str:
    """Return the noise floor as text, also if it was not measured."""
    if floor is not None:
        return str(floor)
    return f"A/A noise floor {100 * ASSUMED_NOISE:.0f} % (assumed; measure it with `workbench noise`)"


def _named(backends: Sequence[str]) -> tuple[str, ...]:
    names = require_sequence("measure_noise: backends", backends, of=str)
    if not names:
        raise ConfigError("measure_noise: backends must name at least one backend, such as ('onnxruntime',), got none.")
    for name in names:
        require_backend(name)
    return names


def _running() -> tuple[str, ...]:
    names = tuple(status.name for status in backend_status(DEFAULT_BACKENDS) if status.available)
    if not names:
        raise BackendUnavailable("measure_noise: no backend is available. See `workbench doctor`.")
    return names


def _aa_pair(variant: Variant, backend: str, batch_size: int, *, seed: int) -> tuple[float, float, bool]:
    """Return the latency ratio of two loads, the standard error of its logarithm, and whether it was disturbed."""
    from workbench.engine.engine import OptimizedInferenceEngine

    inputs = variant.task.examples(batch_size)
    with contextlib.ExitStack() as stack:
        arms = []
        for name in ("first", "second"):
            engine = OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=batch_size)
            stack.enter_context(engine)
            arms.append(CallArm(name, functools.partial(engine.predict, inputs)))
        for arm in arms:
            arm.warm()
        timed = interleave(arms, rounds=_ROUNDS, block_s=_BLOCK_S, budget_s=PAIR_S, seed=seed, monitor=LoadMonitor())
    pace = pace_ratio(timed.timed["first"], timed.timed["second"], seed=seed)
    return pace.ratio, math.log(pace.high / pace.low) / (2 * _NORMAL), bool(timed.notes)


def _floor(pairs: Sequence[tuple[float, float]], *, disturbed: int = 0) -> NoiseFloor:
    """Return the floor from ratios and the standard errors of their logarithms."""
    ratios, errors = zip(*pairs, strict=True)
    floor = max(math.expm1(_NORMAL * _spread(np.log(ratios), np.array(errors))), _LEAST_FLOOR)
    today = datetime.date.today().isoformat()
    return NoiseFloor(floor, ratios, describe_machine(), fingerprint_id(), today, disturbed)


def _spread(logs: Array, errors: Array) -> float:
    """Return the standard deviation between loads without the error of each measurement.

    The estimate of Paule and Mandel (1982) with a mean of 0, by bisection.
    """
    low, high = 0.0, float(np.max(np.abs(logs)))
    if float(np.sum(logs**2 / np.maximum(errors, 1e-9) ** 2)) <= logs.size:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(np.sum(logs**2 / (errors**2 + middle**2))) > logs.size:
            low = middle
        else:
            high = middle
    return high


def _path() -> Path:
    return cache_dir() / "noise" / f"{fingerprint_id()}.json"
