"""Measure the energy of calls by CPU and GPU counters, minus the idle power of the machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from workbench.core.checks import require_callable, require_int, require_positive
from workbench.core.errors import EngineError
from workbench.measure.resources.energy_counters import POWERCAP, Counter, nvml_counters, rapl_counters

_SETTLE_S = 0.1
"""Wait before idle power is measured, for spinning workers and clocks to settle."""


@dataclass(frozen=True)
class Energy:
    """Energy between start and stop.

    ``joules`` are above idle (or below: negative), ``total_joules`` include it; ``idle_watts`` is the subtracted power.
    ``source`` names the summed counters, ``reason`` explains a missing figure or part of it.

    Examples
    --------
    >>> print(Energy(2.0, 30.0, 50.0, 10.0, "RAPL package-0", None))
    30 J in 2.00 s (15 W above 10 W idle; RAPL package-0)
    """

    seconds: float
    joules: float | None = None
    total_joules: float | None = None
    idle_watts: float | None = None
    source: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        if self.joules is None or self.idle_watts is None:
            return f"not measured: {self.reason}"
        watts = self.joules / self.seconds if self.seconds else 0.0
        missing = f"; {self.reason}" if self.reason else ""
        above = f"{watts:.3g} W above {self.idle_watts:.3g} W idle"
        return f"{self.joules:.3g} J in {self.seconds:.2f} s ({above}; {self.source}{missing})"


class EnergyMeter:
    """Meter of the energy between :meth:`start` and :meth:`stop`, or of a ``with`` block.

    The counters cover the whole machine or GPU. Subtracting idle power removes a constant load only, so keep the
    machine idle otherwise.

    Parameters
    ----------
    idle_s : float
        Seconds of the idle power measurement before the first start.
    gpus : sequence of int, optional
        GPUs (``cuda:N``) of the work: all by default, ``()`` for none. If a named one cannot be measured, nothing is,
        because a part of the energy would mislead.
    powercap, nvml, clock, sleep
        Folder of RAPL, pynvml, and functions of ``time``, for tests.

    Attributes
    ----------
    energy : Energy or None
        Result of the last measurement.

    Examples
    --------
    >>> with EnergyMeter(idle_s=1.0) as meter:  # doctest: +SKIP
    ...     engine.predict(x)
    >>> print(meter.energy)  # doctest: +SKIP
    30 J in 2.00 s (15 W above 10 W idle; RAPL package-0)
    """

    def __init__(
        self,
        *,
        idle_s: float = 2.0,
        gpus: Sequence[int] | None = None,
        powercap: Path = POWERCAP,
        nvml: Any = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._idle_s = require_positive("EnergyMeter: idle_s", idle_s, unit="seconds")
        indices = None if gpus is None else tuple(require_int("EnergyMeter: gpus", i, minimum=0) for i in gpus)
        self._find: Callable[[], tuple[list[Counter], str | None]] = lambda: _find(powercap, indices, nvml)
        self._clock, self._sleep = clock, sleep
        self._idle_watts: float | None = None
        self._open: tuple[_CounterThread, str | None, float] | None = None
        self.energy: Energy | None = None

    def start(self) -> Self:
        """Measure idle power before the first measurement, then start; raise EngineError if the meter is running."""
        if self._open is not None:
            raise EngineError("The energy meter is already running. Stop it first.")
        if self._idle_watts is None:
            self._measure_idle()
        counters, reason = self._find()
        self._open = _CounterThread(counters), reason, self._clock()
        return self

    def stop(self) -> Energy:
        """Stop and return the energy, at a second stop the same; raise EngineError if the meter was never started."""
        if self._open is None:
            if self.energy is None:
                raise EngineError("The energy meter was never started. Use a with block, or call start().")
            return self.energy
        (reader, reason, started), self._open = self._open, None
        seconds = self._clock() - started
        total = reader.stop()
        if not reader.counters or self._idle_watts is None:
            self.energy = Energy(seconds, reason=reason or "Idle power was not measured.")
        else:
            above, names = total - self._idle_watts * seconds, ", ".join(counter.name for counter in reader.counters)
            self.energy = Energy(seconds, above, total, self._idle_watts, names, reason)
        return self.energy

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def unavailable(self) -> str | None:
        """Return why there is no counter on this machine, or None."""
        counters, reason = self._find()
        return None if counters else reason

    def _measure_idle(self) -> None:
        if self.unavailable() is not None:
            return
        self._sleep(_SETTLE_S)
        started, reader = self._clock(), _CounterThread(self._find()[0])
        try:
            self._sleep(self._idle_s)
        finally:
            joules = reader.stop()
        self._idle_watts = joules / (self._clock() - started)


class CallEnergy(NamedTuple):
    """Energy of ``calls`` calls: mJ per sample above idle, or None with the reason."""

    energy_mj_per_sample: float | None
    reason: str | None
    calls: int
    energy: Energy


def measure_energy(
    call: Callable[[], Any],
    *,
    samples: int = 1,
    seconds: float = 2.0,
    idle_s: float = 1.0,
    meter: EnergyMeter | None = None,
) -> CallEnergy:
    """Repeat a call and return the energy per sample above the idle power of the machine.

    Parameters
    ----------
    call : callable
        Runs one batch synchronously.
    samples : int
        Samples per batch.
    seconds : float
        Duration of the calls; counters are too coarse below one second.
    idle_s : float
        Seconds of the idle power measurement.
    meter : EnergyMeter, optional
        A meter with selected GPUs; it reuses its idle power in the next measurement.

    Examples
    --------
    >>> found = measure_energy(lambda: sum(range(1000)), seconds=0.1, idle_s=0.1)
    >>> (found.energy_mj_per_sample is None) == (found.reason is not None)
    True
    """
    require_callable("measure_energy: call", call, takes="no arguments")
    require_int("measure_energy: samples", samples)
    require_positive("measure_energy: seconds", seconds, unit="seconds")
    meter = meter or EnergyMeter(idle_s=idle_s)
    reason = meter.unavailable()
    if reason is not None:
        return CallEnergy(None, reason, 0, Energy(0.0, reason=reason))
    call()
    calls = 0
    with meter:
        end = meter._clock() + seconds
        while meter._clock() < end or calls == 0:
            call()
            calls += 1
    energy = meter.stop()
    if energy.joules is None:
        return CallEnergy(None, energy.reason, calls, energy)
    if energy.joules <= 0:
        reason = f"Power was not above idle ({energy.idle_watts:.3g} W): the machine was busy, or the test too short."
        return CallEnergy(None, reason, calls, energy)
    return CallEnergy(1e3 * energy.joules / (calls * samples), None, calls, energy)


def _find(powercap: Path, gpus: Sequence[int] | None, nvml: Any) -> tuple[list[Counter], str | None]:
    """Return new counters with a note on missing ones, or none with the reason."""
    cpu, no_cpu = rapl_counters(powercap)
    if gpus is not None and not gpus:
        return cpu, no_cpu
    gpu, no_gpu = nvml_counters(gpus, nvml=nvml)
    if gpu:
        return [*cpu, *gpu], f"Without the CPU: {no_cpu}" if no_cpu else None
    if gpus is not None:
        return [], no_gpu
    return cpu, no_cpu and f"{no_cpu} {no_gpu}"


class _CounterThread:
    """Reads counters periodically, at the shortest interval that one of them needs."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = counters
        self._lock, self._end = threading.Lock(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="workbench-energy", daemon=True)
        if counters:
            self._thread.start()

    def stop(self) -> float:
        """Stop and return the joules of all counters."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._read()

    def _run(self) -> None:
        try:
            while not self._end.wait(min(counter.every_s for counter in self.counters)):
                self._read()
        except Exception as error:  # noqa: BLE001 - raised by stop
            self._error = error

    def _read(self) -> float:
        with self._lock:
            return sum(counter.joules() for counter in self.counters)
