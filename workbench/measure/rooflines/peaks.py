"""Measure and cache the peaks of this machine: GEMM throughput by precision, and copy bandwidth."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from workbench.core.checks import given, require_int, require_nonnegative
from workbench.core.errors import BackendUnavailable, ConfigError, first_line
from workbench.core.files import cache_dir, write_json
from workbench.core.machine import default_threads, describe_machine, fingerprint_id, this_machine
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.engine.precision import native_set
from workbench.measure.rooflines.peak_gemm import products_of
from workbench.timing.conditions import LoadMonitor
from workbench.timing.settling import run_for

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
SIDES = {"cpu": 1536, "cuda": 8192}
_BLOCK_S = 0.1
_MIN_BLOCKS = 3
_MIN_COPY, _TIMES_CACHE = 256 * 2**20, 4


@dataclass(frozen=True)
class Peak:
    """GEMM throughput of a library in one precision."""

    precision: str
    gflops: float
    library: str


@dataclass(frozen=True)
class MachinePeaks:
    """Peaks of a machine for a number of threads; see :func:`workbench.measure_peaks`.

    Attributes
    ----------
    peaks, tried : tuple of Peak
        The best library of each precision, and all measured peaks.
    copy_gb_s : float
        Bandwidth of a copy of an array much larger than the cache, reads plus writes (10^9 bytes/s).
    notes : tuple of str
        Reasons for missing precisions, and disturbances.

    Examples
    --------
    >>> peaks = MachinePeaks((Peak("float32", 100.0, "torch"),), (), 20.0, 2, "cpu", "a machine", "0f", "2026-01-01")
    >>> peaks.ridge("float32"), peaks.roof(2.0, "float32")
    (5.0, 40.0)
    """

    peaks: tuple[Peak, ...]
    tried: tuple[Peak, ...]
    copy_gb_s: float
    threads: int
    device: str
    machine: str
    fingerprint: str
    measured: str
    notes: tuple[str, ...] = ()

    def of(self, precision: str) -> Peak | None:
        """Return the peak of a precision, None if it was not measured."""
        return next((peak for peak in self.peaks if peak.precision == precision), None)

    def ridge(self, precision: str) -> float | None:
        """Return the operations per byte at which memory-bound work becomes compute-bound."""
        peak = self.of(precision)
        return None if peak is None else peak.gflops / self.copy_gb_s

    def roof(self, intensity: float, precision: str) -> float | None:
        """Return the attainable GFLOP/s at an intensity in operations per byte."""
        peak = self.of(precision)
        return None if peak is None else min(peak.gflops, intensity * self.copy_gb_s)

    def __str__(self) -> str:
        peaks = [f"{p.precision} {p.gflops:,.0f} GFLOP/s ({p.library})" for p in self.peaks]
        head = f"{', '.join(peaks)}; copy {self.copy_gb_s:.1f} GB/s; {self.threads} threads on {self.device}"
        return "\n".join([f"{head} of {self.machine}, {self.measured}", *(f"note: {note}" for note in self.notes)])


def measure_peaks(
    *,
    threads: int | None = None,
    precisions: Sequence[str] = PRECISIONS,
    budget_s: float = 20.0,
    device: str = "cpu",
    keep: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> MachinePeaks:
    """Measure large matrix products in every native precision of this machine, and a large copy.

    The peak is the fastest of the installed libraries (torch, ONNX Runtime, OpenVINO).

    Parameters
    ----------
    threads : int, optional
        By default those of an engine: the physical cores allowed for this process.
    precisions : sequence of str
        Of float32, bfloat16, float16 and int8. Emulated precisions are left out with a note.
    budget_s : float
        Seconds in total; each product has a minimum of a few calls.
    device : str
        ``cpu`` or ``cuda``.
    keep : bool
        Write the result into the cache (``WORKBENCH_CACHE``) for charts and explanations.

    Examples
    --------
    >>> print(wb.measure_peaks())  # doctest: +SKIP
    float32 180 GFLOP/s (openvino), bfloat16 350 GFLOP/s (openvino), ...; copy 21.3 GB/s; 2 threads on cpu of ...
    """
    count = default_threads() if threads is None else require_int("measure_peaks: threads", threads)
    requested = _check(precisions, budget_s, device)
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BackendUnavailable(
                "measure_peaks: device='cuda' requires a CUDA device, and torch finds none. Use device='cpu'."
            )
    native, notes = _native(requested, device)
    products = [product for name in native for product in products_of(name, SIDES[device], count, device)]
    if not products:
        raise BackendUnavailable(
            f"measure_peaks: no installed library computes {', '.join(requested)} on {device} ({'; '.join(notes)})."
        )
    share, tried, monitor = budget_s / (len(products) + 1), [], LoadMonitor(gpu=device != "cpu")
    for number, product in enumerate(products):
        progress(Progress("peaks", number, len(products) + 1, f"{product.precision} with {product.library}"))
        try:
            with product.opened() as call:
                gflops = product.flop / _fastest_ms(call, share) / 1e6
            tried.append(Peak(product.precision, gflops, product.library))
        except Exception as error:  # noqa: BLE001 - a library may lack a kernel
            notes.append(f"{product.precision} with {product.library}: {first_line(error)}")
    progress(Progress("peaks", len(products), len(products) + 1, "copying memory"))
    copied = _copy_gb_s(count, share, device)
    notes += [f"disturbed: {reason}. Re-run on an idle machine." for reason in monitor.lap().reasons]
    progress(Progress("peaks", len(products) + 1, len(products) + 1))
    best = [max((p for p in tried if p.precision == name), key=lambda p: p.gflops, default=None) for name in native]
    today = datetime.date.today().isoformat()
    peaks = MachinePeaks(
        tuple(peak for peak in best if peak is not None), tuple(tried), copied, count, device, describe_machine(),
        fingerprint_id(), today, tuple(notes),
    )  # fmt: skip
    if keep:
        write_json(_path(count, device), asdict(peaks), indent=1)
    return peaks


def cached_peaks(*, threads: int | None = None, device: str = "cpu") -> MachinePeaks | None:
    """Return the cached peaks of this machine, these runtime versions and a number of threads, or None."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        text = _path(default_threads() if threads is None else threads, device).read_text(encoding="utf-8")
        values = json.loads(text)
        values |= {name: tuple(Peak(**one) for one in values[name]) for name in ("peaks", "tried")}
        return MachinePeaks(**{**values, "notes": tuple(values["notes"])})
    return None


def _check(precisions: object, budget_s: object, device: object) -> tuple[str, ...]:
    several = isinstance(precisions, list | tuple) and len(precisions) > 0
    if not several or not set(precisions) <= set(PRECISIONS):  # type: ignore[call-overload]
        raise ConfigError(
            f"measure_peaks: precisions must be some of {', '.join(PRECISIONS)}, got {given(precisions)}."
        )
    require_nonnegative("measure_peaks: budget_s", budget_s, unit="seconds")
    if device not in SIDES:
        raise ConfigError(f"measure_peaks: device must be 'cpu' or 'cuda', got {given(device)}.")
    return tuple(dict.fromkeys(precisions))  # type: ignore[call-overload]


def _native(requested: Sequence[str], device: str) -> tuple[list[str], list[str]]:
    """Return the precisions that the device supports in hardware, and a note for each other one."""
    if device == "cuda":
        native = {name for name in requested if name != "int8"}
        note = "int8 is not measured on CUDA devices: torch has no public GEMM for it"
    else:
        native = {name for name in requested if name == "float32" or native_set(name)}
        native |= {"int8"} if this_machine().int8_dot else set()
        note = "{}: not supported by the instructions of this CPU"
    notes = [note.format(name) for name in requested if name not in native]
    return [name for name in requested if name in native], notes


def _fastest_ms(call: Callable[[], object], budget_s: float) -> float:
    end = time.perf_counter() + budget_s
    best, blocks = math.inf, 0
    while blocks < _MIN_BLOCKS or time.perf_counter() < end:
        best, blocks = min(best, *run_for(call, _BLOCK_S)), blocks + 1
    return best


def _copy_gb_s(threads: int, budget_s: float, device: str) -> float:
    """Return GB/s of the fastest copy, read and written bytes counted once each."""
    import torch

    from workbench.engine.process.threads import ThreadClaim

    size = min(max(_MIN_COPY, _TIMES_CACHE * _cache_bytes()), psutil.virtual_memory().available // 8)
    claim = ThreadClaim(threads)
    try:
        source = torch.ones(size // 4, device=device)
        target = torch.zeros_like(source)

        def call() -> None:
            target.copy_(source)
            if device == "cuda":
                torch.cuda.synchronize()

        best = _fastest_ms(call, budget_s)
    finally:
        claim.release()
    return 2 * source.numel() * 4 / best / 1e6


def _cache_bytes() -> int:
    """Return the size of the last-level cache in bytes, 0 if it is unknown."""
    units = {"K": 2**10, "M": 2**20}
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            text = path.read_text().strip()
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes)


def _path(threads: int, device: str) -> Path:
    return cache_dir() / "peaks" / f"{fingerprint_id()}-{device}-{threads}.json"
