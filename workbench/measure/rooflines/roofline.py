"""Roofline points: arithmetic intensity, reached throughput, and its share of the machine's roof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.core.checks import given, require_int
from workbench.core.errors import ConfigError
from workbench.measure.profiling.op_kinds import bytes_each, is_product
from workbench.measure.profiling.rows import Profile, ms_by
from workbench.measure.rooflines.peaks import MachinePeaks, cached_peaks

if TYPE_CHECKING:
    from workbench.compress.variant import Variant
    from workbench.measure.profiling.work import LayerWork

COUNTED = (
    "bytes are the minimum: weights of every matrix product and convolution once per call, inputs and outputs once per "
    "sample; elementwise operators count as fused"
)
FROM_CACHE = "above the memory roof: values stayed in the cache"
ABOVE = "above the measured peak: measure the peaks again on an idle machine"


@dataclass(frozen=True)
class RooflinePoint:
    """Roofline point of a variant or a layer on one engine.

    Attributes
    ----------
    flop_per_sample : int
        Operations, two per multiply-accumulate.
    weight_bytes, activation_bytes_per_sample, intensity : float
        Bytes read once per call, bytes read and written per sample, and operations per byte at this batch size.
    gflops, roof_gflops, share : float or None
        Reached throughput (None if not run), attainable throughput at this intensity and precision, and their ratio.
    bound : str or None
        ``memory`` below the ridge point, ``compute`` above.
    note : str or None
        Reason for a missing figure, a substitute, or a share above 1.
    """

    name: str
    precision: str
    batch_size: int
    flop_per_sample: int
    weight_bytes: float
    activation_bytes_per_sample: float
    intensity: float
    ms: float | None
    gflops: float | None
    roof_gflops: float | None
    share: float | None
    bound: str | None
    note: str | None = None

    def __str__(self) -> str:
        throughput = "not run" if self.gflops is None else f"{self.gflops:,.1f} GFLOP/s"
        of = "" if self.share is None else f", {100 * self.share:.0f} % of the {self.bound} roof"
        return f"{self.name}: {self.intensity:.1f} flop/byte in {self.precision}, {throughput}{of}"


def roofline(
    items: Any, peaks: MachinePeaks | None = None, *, batch_size: int = 1, layers: int | None = None
) -> tuple[RooflinePoint, ...]:
    """Return roofline points of variants, profiles, or the layers of profiles.

    Parameters
    ----------
    items
        A :class:`Variant`, a :class:`Profile`, a list of them, or a mapping of names to them.
    peaks : MachinePeaks, optional
        By default the cached ones for the threads of the first profile.
    batch_size : int
        Batch size of variants; a profile has its own.
    layers : int, optional
        Return points for this many of the slowest layers of each profile instead of the whole.

    Raises
    ------
    ConfigError
        If the work of an item cannot be counted, or peaks are missing.

    Examples
    --------
    >>> for point in wb.roofline({"float": profile, "int8": other}, wb.measure_peaks()):  # doctest: +SKIP
    ...     print(point)
    float: 21.7 flop/byte in float32, 61.3 GFLOP/s, 34 % of the compute roof
    """
    require_int("roofline: batch_size", batch_size)
    if layers is not None:
        require_int("roofline: layers", layers)
    named = list(_named(items))
    if not named:
        raise ConfigError("roofline: items must hold at least one variant or profile, got none.")
    first = next((item for _, item in named if isinstance(item, Profile)), None)
    if peaks is None:
        peaks = cached_peaks(threads=first.threads, device=first.device.partition(":")[0]) if first else cached_peaks()
    if not isinstance(peaks, MachinePeaks):
        value = "none in the cache" if peaks is None else given(peaks)
        raise ConfigError(f"roofline: peaks must be MachinePeaks, got {value}. Use peaks=wb.measure_peaks().")
    points: list[RooflinePoint] = []
    for name, item in named:
        if isinstance(item, Profile) and layers is not None:
            points += _of_layers(name if len(named) > 1 else "", item, peaks, layers)
        else:
            points.append(_of_whole(name, item, peaks, batch_size))
    return tuple(points)


def _named(items: Any) -> Iterator[tuple[str, Any]]:
    from workbench.compress.variant import Variant

    if isinstance(items, Mapping):
        pairs = list(items.items())
    elif isinstance(items, list | tuple):
        pairs = [(None, item) for item in items]
    else:
        pairs = [(None, items)]
    for name, item in pairs:
        if isinstance(item, Variant):
            yield str(name or item.recipe.label), item
        elif isinstance(item, Profile):
            yield str(name or f"{item.label}, {item.backend}"), item
        else:
            raise ConfigError(f"roofline: items must be variants or profiles (wb.profile), got {given(item)}.")


def _of_whole(name: str, item: Profile | Variant, peaks: MachinePeaks, batch_size: int) -> RooflinePoint:
    if isinstance(item, Profile):
        spent = ms_by((row for row in item.rows if is_product(row.op) and row.precision), "precision")
        precision = max(spent, key=lambda one: spent[one], default=item.precision)
        return _point(name, item.work, precision, item.batch_size, item.plain_ms, peaks)
    from workbench.measure.profiling.work import layer_work

    # the engine chooses the precision; a quantized variant is made for integers
    return _point(name, layer_work(item), "int8" if item.quantized else "float32", batch_size, None, peaks)


def _of_layers(prefix: str, profile: Profile, peaks: MachinePeaks, most: int) -> Iterator[RooflinePoint]:
    work = {layer.layer: layer for layer in profile.work}
    times = ms_by((row for row in profile.rows if row.layer in work), "layer")
    kinds = {row.layer: row.precision for row in profile.rows if is_product(row.op) and row.precision}
    for name in sorted(times, key=lambda one: -times[one])[:most]:
        label = f"{prefix}: {name}" if prefix else name
        precision = kinds.get(name, profile.precision)
        yield _point(label, (work[name],), precision, profile.batch_size, times[name], peaks)


def _point(
    name: str, work: tuple[LayerWork, ...], precision: str, batch: int, ms: float | None, peaks: MachinePeaks
) -> RooflinePoint:
    if not work or not sum(layer.flop for layer in work):
        raise ConfigError(f"roofline: {name} must have a matrix product that can be counted on its torch module.")
    each, flop = bytes_each(precision), sum(layer.flop for layer in work)
    weights, values = (sum(getattr(layer, part) for layer in work) * each for part in ("weights", "activations"))
    intensity = flop * batch / (weights + values * batch)
    kind, note = precision, None
    if peaks.of(precision) is None:
        kind, note = "float32", f"no peak of {precision} was measured: relative to float32"
    roof, ridge = peaks.roof(intensity, kind), peaks.ridge(kind)
    if roof is None:
        note = f"no peak of {precision} or float32 was measured"
    gflops = None if ms is None else flop * batch / ms / 1e6
    share = None if gflops is None or roof is None else gflops / roof
    bound = None if ridge is None else "memory" if intensity < ridge else "compute"
    if share is not None and share > 1 and note is None:
        note = FROM_CACHE if bound == "memory" else ABOVE
    return RooflinePoint(name, precision, batch, flop, weights, values, intensity, ms, gflops, roof, share, bound, note)
