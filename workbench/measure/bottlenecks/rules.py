"""Bottlenecks of a variant: one rule for each usual cause, with its evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench.core.format.numbers import plural
from workbench.engine.names import MODULE_BACKENDS
from workbench.measure.profiling.op_kinds import bytes_each, is_product, is_rounding, kind_of
from workbench.measure.profiling.rows import LayerTime, Profile, ms_by
from workbench.measure.rooflines.peaks import MachinePeaks

TINY_MS = 0.01
"""Nodes below this are dominated by launch overhead."""
MULTIPLE = 8
_LAUNCH, _MEMORY, _SOME = 0.35, 0.3, 0.1
_MIN_BANDWIDTH = 0.3  # share of the copy bandwidth from which on memory limits a layer
_MAIN_SHARE = 0.8


@dataclass(frozen=True)
class Bottleneck:
    """One bottleneck: its rule, a sentence with the evidence, and its share of the time.

    Attributes
    ----------
    rule : str
        ``launch-bound``, ``memory-bound``, ``channels``, ``precision changes``, ``fallback``, ``simulated``,
        ``float products``, ``untouched``, ``slower layers``.
    share : float
        Share of the plain call or of the rows, 0 to 1.
    """

    rule: str
    text: str
    share: float

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def launch_bound(profile: Profile) -> Bottleneck | None:
    """Detect launch-bound calls: tiny nodes or time outside of all nodes dominate."""
    # on a disturbed machine, waiting for a core adds to the time outside of nodes
    outside = 0.0 if profile.disturbed else profile.outside_ms
    call = profile.total_ms + outside
    tiny = [row.ms for row in profile.rows if row.ms <= TINY_MS]
    share = (sum(tiny) + outside) / call if call else 0.0
    if share < _LAUNCH:
        return None
    parts = []
    if tiny:
        few = f"{len(tiny)} of {len(profile.rows)} nodes"
        parts.append(f"{few} take {1e3 * TINY_MS:g} µs or less, {_ms(sum(tiny))} in total")
    if outside:
        parts.append(f"at least {_ms(outside)} of a call is outside of all nodes")
    text = (
        f"{'; '.join(parts)}: {_percent(share)} of a call ({_ms(call)}) is launch overhead, which smaller layers "
        "do not reduce. Use a larger batch, fewer layers, or a runtime with more fusion."
    )
    return Bottleneck("launch-bound", text, share)


def ambiguous_overhead(profile: Profile) -> str | None:
    """Return a note if a disturbed profile has much time outside of nodes, which may be overhead or waiting."""
    outside = profile.outside_ms
    share = outside / ((profile.total_ms + outside) or 1.0)
    if share < _LAUNCH:
        return None
    return (
        f"{_ms(outside)} of a call ({_percent(share)}) is outside of all nodes: launch overhead, or waiting for other "
        "processes. Profile again on an idle machine."
    )


def memory_bound(profile: Profile, peaks: MachinePeaks | None) -> Bottleneck | None:
    """Detect memory-bound layers: low intensity, much of the time, and near the copy bandwidth."""
    if peaks is None:
        return None
    work = {layer.layer: layer for layer in profile.work}
    products = _products(profile.rows)
    precisions = {row.layer: row.precision or "float32" for row in reversed(products)}
    limited: list[tuple[float, float, float, str]] = []
    for name, ms in ms_by(products, "layer").items():
        precision = precisions[name]
        ridge = peaks.ridge(precision) or peaks.ridge("float32")
        if name not in work or ridge is None or ms <= 0:
            continue
        each = bytes_each(precision)
        intensity = work[name].intensity(profile.batch_size, each)
        bandwidth = work[name].bytes_moved(profile.batch_size, each) / ms / 1e6
        if intensity < ridge and bandwidth >= _MIN_BANDWIDTH * peaks.copy_gb_s:
            limited.append((ms, intensity / ridge, bandwidth, name))
    share = sum(ms for ms, *_ in limited) / (profile.total_ms or 1.0)
    if share < _MEMORY:
        return None
    _, low, bandwidth, name = max(limited)
    text = (
        f"{_percent(share)} of the time is in {plural(len(limited), 'layer')} below the ridge point: {name} has "
        f"{_percent(low)} of its intensity and moves {bandwidth:.1f} of {peaks.copy_gb_s:.1f} GB/s (copy). Reduce "
        "bytes (int8, 16 bits), not operations."
    )
    return Bottleneck("memory-bound", text, share)


def odd_channels(profile: Profile) -> Bottleneck | None:
    """Detect slow layers whose channels are not multiples of 8."""
    channels = {layer.layer: layer.channels for layer in profile.work if layer.channels}
    order = [layer.layer for layer in profile.work if layer.channels]
    times = {name: ms for name, ms in ms_by(_products(profile.rows), "layer").items() if name in channels}
    odd: list[tuple[str, int, float]] = []
    reached, whole = 0.0, sum(times.values())
    for name in sorted(times, key=lambda one: -times[one]):
        if reached >= _MAIN_SHARE * whole:
            break
        reached += times[name]
        ends = channels[name]
        # the task fixes the input channels and the classes
        inner = ([] if name == order[0] else [ends[0]]) + ([] if name == order[-1] else [ends[1]])
        uneven = [count for count in inner if count % MULTIPLE]
        if uneven:
            odd.append((name, uneven[0], times[name]))
    share = sum(ms for *_, ms in odd) / (profile.total_ms or 1.0)
    if share < _SOME:
        return None
    text = (
        f"{plural(len(odd), 'layer')} with {_percent(share)} of the time: channels are not multiples of {MULTIPLE}: "
        f"{_first_three([f'{name} ({count})' for name, count, _ in odd])}. Kernels pad to groups of {MULTIPLE} or 16; "
        f"prune with round_to={MULTIPLE}."
    )
    return Bottleneck("channels", text, share)


def precision_changes(profile: Profile) -> Bottleneck | None:
    """Detect much time in conversions of type or layout."""
    if profile.quantized and profile.backend in MODULE_BACKENDS:
        return None  # see simulated
    rows = [row for row in profile.rows if kind_of(row.op) == "precision change"]
    share = sum(row.share for row in rows)
    if share < _SOME:
        return None
    ops = ", ".join(dict.fromkeys(row.op for row in sorted(rows, key=lambda row: -row.ms)))
    text = (
        f"{plural(len(rows), 'node')} convert types or layouts ({ops}), {_percent(share)} of the time: the work "
        "between them is too short, or does not run in integers."
    )
    return Bottleneck("precision changes", text, share)


def fallback(profile: Profile) -> Bottleneck | None:
    """Detect nodes on a fallback provider, and a fallback of precision or device."""
    spent = ms_by(profile.rows, "provider")
    # the CPU is the main provider only if there is no other one
    main = max(spent, key=lambda name: (not name.startswith("CPU"), spent[name]), default="")
    rows = [row for row in profile.rows if row.provider != main]
    parts = list(profile.fallbacks)
    share = sum(row.share for row in rows)
    if rows:
        ops = ", ".join(dict.fromkeys(row.op for row in rows))
        parts.append(
            f"{plural(len(rows), 'node')} on {rows[0].provider} instead of {main} ({ops}), {_percent(share)} of the "
            "time, with copies between the two"
        )
    if profile.requested not in ("auto", profile.precision):
        parts.append(f"the engine computes in {profile.precision}, requested was {profile.requested}")
        share = 1.0
    return Bottleneck("fallback", "; ".join(parts) + ".", share or 1.0) if parts else None


def simulated(profile: Profile) -> Bottleneck | None:
    """Detect quantization simulated in float by torch."""
    if not profile.quantized or profile.backend not in MODULE_BACKENDS:
        return None
    share = sum(row.share for row in profile.rows if is_rounding(row.op))
    roundings = f", {_percent(share)} of the time is fake quantization" if share else ""
    text = (
        f"{profile.backend} runs quantized layers as float products with fake quantization{roundings}: the accuracy is "
        "that of the quantized model, the speed is not. Use ONNX Runtime or OpenVINO."
    )
    return Bottleneck("simulated", text, share)


def float_products(profile: Profile) -> Bottleneck | None:
    """Detect float products of a quantized variant on an engine with integer kernels."""
    if not profile.quantized or profile.backend in MODULE_BACKENDS:
        return None
    products = _products(profile.rows)
    rows = sorted((row for row in products if row.precision not in ("int8", "int4")), key=lambda row: -row.ms)
    share = sum(row.share for row in rows)
    if not rows or share < _SOME:
        return None
    text = (
        f"{len(rows)} of {plural(len(products), 'product')} of a quantized variant compute in {rows[0].precision}, "
        f"{_percent(share)} of the time: {_first_three(list(dict.fromkeys(row.layer for row in rows)))}."
    )
    return Bottleneck("float products", text, share)


def untouched(before: Profile, after: Profile) -> Bottleneck | None:
    """Detect that nodes without products dominate after the products were reduced."""
    work = {layer.layer for layer in (*before.work, *after.work)}
    old, new = (
        sum(row.ms for row in profile.rows if row.layer not in work and not is_product(row.op))
        for profile in (before, after)
    )
    share = new / (after.total_ms or 1.0)
    if share < _MEMORY or not before.macs or after.macs > 0.95 * before.macs:
        return None
    text = (
        f"MACs fell by {_percent(1 - after.macs / before.macs)}, but {_percent(share)} of the time is in nodes without "
        f"MACs ({_ms(old)} before, {_ms(new)} after)."
    )
    return Bottleneck("untouched", text, share)


def slower_layers(before: Profile, after: Profile) -> Bottleneck | None:
    """Detect layers that became much slower."""
    old, new = ms_by(before.rows, "layer"), ms_by(after.rows, "layer")
    lost = {name: new[name] - old[name] for name in new if name in old and new[name] > old[name]}
    whole = sum(lost.values())
    share = whole / (after.total_ms or 1.0)
    if share < _SOME:
        return None
    first = max(lost, key=lambda name: lost[name])
    text = (
        f"{plural(len(lost), 'layer')} slower than before by {_ms(whole)} ({_percent(share)} of the time): {first} "
        f"from {_ms(old[first])} to {_ms(new[first])}."
    )
    return Bottleneck("slower layers", text, share)


def _products(rows: Iterable[LayerTime]) -> list[LayerTime]:
    return [row for row in rows if is_product(row.op)]


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _ms(value: float) -> str:
    return f"{value:.3g} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
