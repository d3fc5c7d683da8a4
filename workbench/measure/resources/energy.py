"""Energy that calls take: the counters of processor and GPU, with the power of the machine at rest subtracted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from workbench.core.checks import require_callable, require_int, require_positive
from workbench.core.errors import EngineError
from workbench.measure.resources.energy_counters import POWERCAP, Counter, nvml_counters, rapl_counters

_SETTLE_S = 0.1
"""Time that workers which spin after their last call, and clocks, get before power at rest is measured."""


@dataclass(frozen=True)
class Energy:
    """What was taken between start and stop.

    Attributes
    ----------
    seconds : float
        Time between the two.
    joules : float or None
        Energy above that of the machine at rest; below 0 where it took less than at rest.
    total_joules : float or None
        All of it.
    idle_watts : float or None
        Power at rest, which was subtracted.
    source : str or None
        The counters that were summed up.
    reason : str or None
        Why there is no figure, or which part of the machine is not in it.

    Examples
    --------
    >>> print(Energy(2.0, 30.0, 50.0, 10.0, "RAPL package-0", None))
    30 J in 2.00 s (15 W above 10 W at rest; RAPL package-0)
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
        return (
            f"{self.joules:.3g} J in {self.seconds:.2f} s "
            f"({watts:.3g} W above {self.idle_watts:.3g} W at rest; {self.source}{missing})"
        )


class EnergyMeter:
    """Measures the energy between :meth:`start` and :meth:`stop`, or of a ``with`` block.

    The counters are those of the whole machine or GPU: power at rest takes out what runs all the time, and other work
    that comes and goes does not show. Keep the machine quiet.

    Parameters
    ----------
    idle_s : float
        Seconds that power at rest is measured for, before the first start; nothing should run then.
    gpus : sequence of int, optional
        GPUs (``cuda:N``) that the work runs on: all by default, ``()`` for work on the processor alone. Where one that
        is named cannot be measured, nothing is: half of the energy would mislead.
    powercap : path
        Where RAPL is; another folder in tests.
    nvml, clock, sleep
        pynvml and the functions of ``time``; others in tests.

    Attributes
    ----------
    energy : Energy or None
        What the last measurement gave.

    Raises
    ------
    ConfigError
        If ``idle_s`` is no number of seconds above 0, or ``gpus`` are no numbers of GPUs.

    Examples
    --------
    >>> with EnergyMeter(idle_s=1.0) as meter:  # doctest: +SKIP
    ...     engine.predict(x)
    >>> print(meter.energy)  # doctest: +SKIP
    30 J in 2.00 s (15 W above 10 W at rest; RAPL package-0)
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
        wanted = None if gpus is None else tuple(require_int("EnergyMeter: gpus", i, minimum=0) for i in gpus)
        self._find: Callable[[], tuple[list[Counter], str | None]] = lambda: _find(powercap, wanted, nvml)
        self._clock, self._sleep = clock, sleep
        self._idle_watts: float | None = None
        self._open: tuple[list[Counter], str | None, float] | None = None
        self._reader: _Reader | None = None
        self.energy: Energy | None = None

    def start(self) -> Self:
        """Measure power at rest if that was not done yet, and begin.

        Raises
        ------
        EngineError
            If it is started already.
        """
        if self._open is not None:
            raise EngineError("This energy meter is started already. Stop it first.")
        if self._idle_watts is None:
            self._rest()
        counters, reason = self._find()
        self._reader = _Reader(counters)
        self._open = counters, reason, self._clock()
        return self

    def stop(self) -> Energy:
        """End, and return what was measured; a second stop returns it again.

        Raises
        ------
        EngineError
            If it was never started.
        """
        if self._open is None:
            if self.energy is None:
                raise EngineError("This energy meter was never started. Use it in a with block, or call start().")
            return self.energy
        (counters, reason, started), self._open = self._open, None
        seconds = self._clock() - started
        total = self._reader.stop() if self._reader is not None else 0.0
        self.energy = self._result(counters, reason, seconds, total)
        return self.energy

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def unavailable(self) -> str | None:
        """Return why nothing can be measured here, None where something can."""
        counters, reason = self._find()
        return None if counters else reason

    def _rest(self) -> None:
        counters, _ = self._find()
        if not counters:
            return
        self._sleep(_SETTLE_S)
        counters, _ = self._find()
        started, reader = self._clock(), _Reader(counters)
        try:
            self._sleep(self._idle_s)
        finally:
            joules = reader.stop()
        self._idle_watts = joules / (self._clock() - started)

    def _result(self, counters: list[Counter], reason: str | None, seconds: float, total: float) -> Energy:
        if not counters or self._idle_watts is None:
            return Energy(seconds, reason=reason or "Power at rest was not measured.")
        above = total - self._idle_watts * seconds
        return Energy(seconds, above, total, self._idle_watts, ", ".join(c.name for c in counters), reason)


class CallEnergy(NamedTuple):
    """Energy of calls: mJ per sample above rest, or None and why; what was measured over ``calls`` calls."""

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
    """Make a call again and again, and return the energy of a sample with the machine's power at rest subtracted.

    Parameters
    ----------
    call : callable
        Runs one batch, and is done when it returns.
    samples : int
        Samples in a batch.
    seconds : float
        How long to call: the counters are coarse, and below a second they say little.
    idle_s : float
        Seconds that power at rest is measured for, before.
    meter : EnergyMeter, optional
        One with GPUs of its own choice; its power at rest is kept for the next measurement.

    Raises
    ------
    ConfigError
        If ``call`` is no function, or a number is out of range.

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
        words = f"The machine took no more than at rest ({energy.idle_watts:.3g} W): it was not quiet, or too short."
        return CallEnergy(None, words, calls, energy)
    return CallEnergy(1e3 * energy.joules / (calls * samples), None, calls, energy)


def _find(powercap: Path, gpus: Sequence[int] | None, nvml: Any) -> tuple[list[Counter], str | None]:
    """Return fresh counters with what is missing beside them, or none with the reason."""
    cpu, no_cpu = rapl_counters(powercap)
    if gpus is not None and not gpus:
        return cpu, no_cpu
    gpu, no_gpu = nvml_counters(gpus, nvml=nvml)
    if gpu:
        return [*cpu, *gpu], f"Without the processor: {no_cpu}" if no_cpu else None
    if gpus is not None:
        return [], no_gpu
    return cpu, no_cpu and f"{no_cpu} {no_gpu}"


class _Reader:
    """Reads counters in between, from a thread of its own, as often as the one that needs it most."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._lock, self._end = threading.Lock(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="workbench-energy", daemon=True)
        if counters:
            self._thread.start()

    def stop(self) -> float:
        """End, and return the joules of all counters."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._read()

    def _run(self) -> None:
        try:
            while not self._end.wait(min(counter.every_s for counter in self._counters)):
                self._read()
        except Exception as error:  # noqa: BLE001 - raised where the figure is asked for
            self._error = error

    def _read(self) -> float:
        with self._lock:
            return sum(counter.joules() for counter in self._counters)
