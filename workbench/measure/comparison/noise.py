"""The noise floor of this machine: how far two loads of one and the same model are apart (A-A), kept for later."""

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
from workbench.engine.backends import DEFAULT_BACKENDS, backend_status, require_backend
from workbench.timing.arms import CallArm
from workbench.timing.conditions import LoadMonitor
from workbench.timing.interleave import interleave
from workbench.timing.pace import pace_ratio

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

PAIR_S = 2.5
LEAST_PAIRS = 6
_NORMAL = 1.96
"""Standard deviations that hold 95 of 100 pairs."""
_LEAST_FLOOR = 0.01
_ROUNDS = (6, 20)
_BLOCK_S = 0.05


@dataclass(frozen=True)
class NoiseFloor:
    """How far two loads of one model are apart on this machine: differences up to there are noise.

    Attributes
    ----------
    floor : float
        What 95 of 100 pairs stay below, with the error of each pair's own timing taken out: 0.015 is 1.5 %. That error
        is in the interval of a comparison already, and would count twice. At least 1 %.
    apart : tuple of float
        The ratio of each pair that was measured.
    machine, fingerprint : str
        Where; the fingerprint is the one in the rows of a study.
    measured : str
        The day.
    disturbed : int
        Pairs in whose timing other processes used the cores. A floor with more than a quarter of them is ``busy``: it
        says so wherever it is printed, and does not take the place of one that was measured quietly.

    Examples
    --------
    >>> print(NoiseFloor(0.012, (1.004, 0.988), "a machine", "0f", "2026-01-01"))
    noise floor 1.2 %: two loads of one model were up to that far apart (2 pairs, 2026-01-01)
    """

    floor: float
    apart: tuple[float, ...]
    machine: str
    fingerprint: str
    measured: str
    disturbed: int = 0

    @property
    def busy(self) -> bool:
        """Whether it tells of other work more than of this machine."""
        return 4 * self.disturbed > len(self.apart)

    def __str__(self) -> str:
        words = f"{len(self.apart)} pairs, {self.measured}"
        if self.busy:
            words += f"; other work disturbed {self.disturbed} of them: run `workbench noise` on a quiet machine"
        return f"noise floor {100 * self.floor:.1f} %: two loads of one model were up to that far apart ({words})"


def measure_noise(
    variant: Variant | None = None,
    *,
    backends: Sequence[str] | None = None,
    batch_size: int = 8,
    budget_s: float = 60.0,
    keep: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> NoiseFloor:
    """Load one model again and again, time each two loads by turns, and keep how far they were apart.

    Sessions of one model differ for as long as they live, by where their memory happens to lie; so an interval of the
    ratio of two of them does not tell by itself that what they run differs. :func:`workbench.compare` and studies take
    the floor that was kept for this machine and these versions of the runtimes.

    Parameters
    ----------
    variant : Variant, optional
        What is loaded; by default the embedded task ``digits``.
    backends : sequence of str, optional
        Taken in turn; by default torch-eager, onnxruntime and openvino, as far as they run here.
    budget_s : float
        Seconds for all pairs; at least 6 are measured.
    keep : bool
        Write the result into the cache (``WORKBENCH_CACHE``), unless it is ``busy`` and a quiet one is there.

    Raises
    ------
    ConfigError, BackendUnavailable
        If an argument cannot be used.

    Examples
    --------
    >>> print(wb.measure_noise())  # doctest: +SKIP
    noise floor 1.6 %: two loads of one model were up to that far apart (24 pairs, 2026-01-01)
    """
    from workbench.compress.variant import Variant
    from workbench.tasks import digits

    require_int("measure_noise: batch_size", batch_size)
    require_nonnegative("measure_noise: budget_s", budget_s, unit="seconds")
    if not isinstance(variant, Variant | None):
        raise ConfigError(f"measure_noise takes a Variant, got {given(variant)}. wb.Variant.original(task) makes one.")
    chosen = Variant.original(digits()) if variant is None else variant
    names = _running() if backends is None else _named(backends)
    found: list[tuple[float, float, bool]] = []
    end = time.perf_counter() + budget_s
    for number, name in enumerate(itertools.cycle(names)):
        if number >= LEAST_PAIRS and time.perf_counter() >= end:
            break
        progress(Progress("noise", number, 0, f"pair {number + 1}: {name} beside {name}"))
        found.append(_apart(chosen, name, batch_size, seed=number))
    floor = _floor([pair[:2] for pair in found], disturbed=sum(pair[2] for pair in found))
    if keep and not (floor.busy and (known := cached_noise()) and not known.busy):
        write_json(_path(), asdict(floor), indent=1)
    return floor


def cached_noise() -> NoiseFloor | None:
    """Return the floor that was kept for this machine and these runtimes, None where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        values = json.loads(_path().read_text(encoding="utf-8"))
        return NoiseFloor(**{**values, "apart": tuple(values["apart"])})
    return None


def machine_floor() -> float:
    """Return the share that counts as noise on this machine: what was kept, else 2 %."""
    return floor_of(cached_noise())


def floor_of(known: NoiseFloor | None) -> float:
    """Return the share that counts as noise: what was measured, else 2 %."""
    return ASSUMED_NOISE if known is None else known.floor


def noise_text(floor: NoiseFloor | None) -> str:
    """Return what a verdict says about noise."""
    if floor is not None:
        return str(floor)
    return f"noise floor {100 * ASSUMED_NOISE:.0f} % (assumed; the command `workbench noise` measures it here)"


def _named(backends: Sequence[str]) -> tuple[str, ...]:
    names = require_sequence("measure_noise: backends", backends, of=str)
    if not names:
        raise ConfigError("measure_noise: backends is empty. Name at least one, such as ('onnxruntime',).")
    for name in names:
        require_backend(name)
    return names


def _running() -> tuple[str, ...]:
    names = tuple(status.name for status in backend_status(DEFAULT_BACKENDS) if status.available)
    if not names:
        raise BackendUnavailable("measure_noise: no backend runs here. See: workbench doctor")
    return names


def _apart(variant: Variant, backend: str, batch_size: int, *, seed: int) -> tuple[float, float, bool]:
    """Return the ratio of two loads of one model on one backend, the standard error of its logarithm, and whether other
    work disturbed it."""
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
    found = pace_ratio(timed.timed["first"], timed.timed["second"], seed=seed)
    disturbed = timed.conditions is not None and bool(timed.conditions.reasons)
    return found.ratio, math.log(found.high / found.low) / (2 * _NORMAL), disturbed


def _floor(pairs: Sequence[tuple[float, float]], *, disturbed: int = 0) -> NoiseFloor:
    """Return the floor from ratios and the standard errors of their logarithms."""
    logs, errors = (
        np.array(column) for column in zip(*((math.log(ratio), error) for ratio, error in pairs), strict=True)
    )
    floor = max(math.expm1(_NORMAL * _spread(logs, errors)), _LEAST_FLOOR)
    today = datetime.date.today().isoformat()
    return NoiseFloor(floor, tuple(ratio for ratio, _ in pairs), describe_machine(), fingerprint_id(), today, disturbed)


def _spread(logs: Array, errors: Array) -> float:
    """Return the standard deviation between loads, told apart from the error of each measurement.

    The estimate of Paule and Mandel (1982), by bisection; that the true mean is 0 is known here.
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
