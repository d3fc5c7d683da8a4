"""Bottlenecks of a variant: one rule for each usual cause, with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.engine.names import MODULE_BACKENDS
from workbench.measure.profiling.op_kinds import bytes_each, is_precision_change, is_product, is_rounding
from workbench.measure.profiling.rows import LayerTime, Profile
from workbench.measure.rooflines.peaks import MachinePeaks

TINY_MS = 0.01
"""A node below this does little beside getting started."""
MULTIPLE = 8
_LAUNCH, _MEMORY, _SOME = 0.35, 0.3, 0.1
_FAST_ENOUGH = 0.3  # of the measured bandwidth, so that memory is what holds a layer up
_MOST_OF = 0.8


@dataclass(frozen=True)
class Bottleneck:
    """One cause: the rule, a sentence with its evidence, and the part of the time that it concerns.

    Attributes
    ----------
    rule : str
        ``launch-bound``, ``memory-bound``, ``channels``, ``precision changes``, ``fallback``, ``simulated``,
        ``float products``, ``untouched``, ``slower layers``.
    share : float
        Of the plain call or of the rows, from 0 to 1; what the sentence says.
    """

    rule: str
    words: str
    share: float

    def __str__(self) -> str:
        return f"{self.rule}: {self.words}"


def launch_bound(profile: Profile) -> Bottleneck | None:
    """Say so where much of a call is spent on starting tiny nodes, or outside of all nodes."""
    # where others have the cores, a call waits for them between its nodes, and that says nothing of the model
    outside = 0.0 if profile.disturbed else profile.outside_ms
    call = profile.total_ms + outside
    tiny = [row.ms for row in profile.rows if row.ms <= TINY_MS]
    share = (sum(tiny) + outside) / call if call else 0.0
    if share < _LAUNCH:
        return None
    parts = []
    if tiny:
        parts.append(f"{len(tiny)} of {len(profile.rows)} nodes take {1e3 * TINY_MS:g} µs or less, {_ms(sum(tiny))}")
    if outside:
        parts.append(f"at least {_ms(outside)} of a call lies outside of all nodes")
    return Bottleneck(
        "launch-bound",
        f"{'; '.join(parts)}: {_percent(share)} of a call's {_ms(call)} go into starting work, which smaller layers do "
        "not shorten. A larger batch, fewer layers or a runtime that fuses more does.",
        share,
    )


def hidden_by_others(profile: Profile) -> str | None:
    """Return in words what a disturbed profile cannot tell of a call's time outside of its nodes, where it is much."""
    outside = profile.outside_ms
    share = outside / ((profile.total_ms + outside) or 1.0)
    if share < _LAUNCH:
        return None
    return (
        f"{_ms(outside)} of a call ({_percent(share)}) lies outside of all nodes: starting work, or waiting for the "
        "processes that disturbed it. Profile again on a quiet machine to tell which"
    )


def memory_bound(profile: Profile, peaks: MachinePeaks | None) -> Bottleneck | None:
    """Say so where layers of few operations per byte take much of the time, and move bytes near the copy's pace."""
    if peaks is None:
        return None
    work = {layer.layer: layer for layer in profile.work}
    times = _product_times(profile.rows)
    found: list[tuple[float, float, float, str]] = []
    for name, (ms, precision) in times.items():
        ridge = peaks.ridge(precision) or peaks.ridge("float32")
        if name not in work or ridge is None or ms <= 0:
            continue
        each = bytes_each(precision)
        intensity = work[name].intensity(profile.batch_size, each)
        pace = work[name].bytes_moved(profile.batch_size, each) / ms / 1e6
        if intensity < ridge and pace >= _FAST_ENOUGH * peaks.copy_gb_s:
            found.append((ms, intensity / ridge, pace, name))
    share = sum(ms for ms, *_ in found) / (profile.total_ms or 1.0)
    if share < _MEMORY:
        return None
    _, low, pace, name = max(found)
    return Bottleneck(
        "memory-bound",
        f"{_percent(share)} of the time is in {_count(len(found), 'layer')} that do fewer operations per byte than "
        f"this machine needs to keep computing: {name} does {_percent(low)} of that, and moves {pace:.1f} of the "
        f"{peaks.copy_gb_s:.1f} GB/s of a copy. Fewer operations do not shorten them, fewer bytes (int8, 16 bits) do.",
        share,
    )


def odd_channels(profile: Profile) -> Bottleneck | None:
    """Say so where the layers that take most have channels that are no multiple of 8."""
    channels = {layer.layer: layer.channels for layer in profile.work if layer.channels}
    order = [layer.layer for layer in profile.work if layer.channels]
    times = {name: ms for name, (ms, _) in _product_times(profile.rows).items() if name in channels}
    odd: list[tuple[str, int, float]] = []
    reached, whole = 0.0, sum(times.values())
    for name in sorted(times, key=lambda one: -times[one]):
        if reached >= _MOST_OF * whole:
            break
        reached += times[name]
        ends = channels[name]
        # pixels that come in and classes that go out are the task's, and no step's choice
        mine = ([] if name == order[0] else [ends[0]]) + ([] if name == order[-1] else [ends[1]])
        wrong = [count for count in mine if count % MULTIPLE]
        if wrong:
            odd.append((name, wrong[0], times[name]))
    share = sum(ms for *_, ms in odd) / (profile.total_ms or 1.0)
    if share < _SOME:
        return None
    named = ", ".join(f"{name} ({count})" for name, count, _ in odd[:3])
    return Bottleneck(
        "channels",
        f"{_count(len(odd), 'layer')} with {_percent(share)} of the time have channels that are no multiple of "
        f"{MULTIPLE}: {named}{', ...' if len(odd) > 3 else ''}. Kernels work on groups of {MULTIPLE} or 16 and pad the "
        f"rest: prune with round_to={MULTIPLE}.",
        share,
    )


def precision_changes(profile: Profile) -> Bottleneck | None:
    """Say so where turning numbers into another type or layout takes much of the time."""
    if profile.quantized and profile.backend in MODULE_BACKENDS:
        return None  # roundings are simulated there, which is a reason of its own
    rows = [row for row in profile.rows if is_precision_change(row.op)]
    share = sum(row.share for row in rows)
    if share < _SOME:
        return None
    ops = ", ".join(dict.fromkeys(row.op for row in sorted(rows, key=lambda row: -row.ms)))
    return Bottleneck(
        "precision changes",
        f"{_count(len(rows), 'node')} only turn numbers into another type or layout ({ops}), {_percent(share)} of the "
        "time: what lies between them is too short to win it back, or does not run in integers.",
        share,
    )


def fallback(profile: Profile) -> Bottleneck | None:
    """Say so where nodes run on another provider than most, or the engine in another precision or place than asked."""
    spent: dict[str, float] = {}
    for row in profile.rows:
        spent[row.provider] = spent.get(row.provider, 0.0) + row.ms
    first = profile.rows[0].provider if len(spent) == 1 else None
    main = first or max(spent, key=lambda name: (not name.startswith("CPU"), spent[name]), default="")
    rows = [row for row in profile.rows if row.provider != main]
    parts = list(profile.fallbacks)
    share = sum(row.share for row in rows)
    if rows:
        ops = ", ".join(dict.fromkeys(row.op for row in rows))
        parts.append(
            f"{_count(len(rows), 'node')} on {rows[0].provider} beside {main} ({ops}), {_percent(share)} of the time: "
            "values are copied between the two"
        )
    if profile.asked not in ("auto", profile.precision):
        parts.append(f"it computes in {profile.precision} where {profile.asked} was asked for")
        share = 1.0
    return Bottleneck("fallback", "; ".join(parts) + ".", share or 1.0) if parts else None


def simulated(profile: Profile) -> Bottleneck | None:
    """Say so where torch simulates quantization in float."""
    if not profile.quantized or profile.backend not in MODULE_BACKENDS:
        return None
    share = sum(row.share for row in profile.rows if is_rounding(row.op))
    spent = f", and {_percent(share)} of the time goes into the roundings" if share else ""
    return Bottleneck(
        "simulated",
        f"{profile.backend} runs quantized layers as float products between roundings{spent}: quality is that of the "
        "quantized model, speed is not. ONNX Runtime and OpenVINO use its integers.",
        share,
    )


def float_products(profile: Profile) -> Bottleneck | None:
    """Say so where a quantized variant still multiplies in float on an engine that has integers."""
    if not profile.quantized or profile.backend in MODULE_BACKENDS:
        return None
    products = [row for row in profile.rows if is_product(row.op)]
    rows = [row for row in products if row.precision not in ("int8", "int4")]
    share = sum(row.share for row in rows)
    if not rows or share < _SOME:
        return None
    named = ", ".join(dict.fromkeys(row.layer for row in sorted(rows, key=lambda row: -row.ms)[:3]))
    return Bottleneck(
        "float products",
        f"{len(rows)} of {_count(len(products), 'product')} compute in {rows[0].precision} although the variant is "
        f"quantized, {_percent(share)} of the time: {named}{', ...' if len(rows) > 3 else ''}.",
        share,
    )


def untouched(before: Profile, after: Profile) -> Bottleneck | None:
    """Say so where most of what remains was there before: the part of the time that no step shortened."""
    work = {layer.layer for layer in (*before.work, *after.work)}
    ours, theirs = (
        sum(row.ms for row in profile.rows if row.layer not in work and not is_product(row.op))
        for profile in (before, after)
    )
    share = theirs / (after.total_ms or 1.0)
    if share < _MEMORY or not before.macs or after.macs > 0.95 * before.macs:
        return None
    return Bottleneck(
        "untouched",
        f"multiply-accumulates fell by {_percent(1 - after.macs / before.macs)}, but {_percent(share)} of the time is "
        f"in nodes that have none ({_ms(ours)} before, {_ms(theirs)} now).",
        share,
    )


def slower_layers(before: Profile, after: Profile) -> Bottleneck | None:
    """Say so where some layers take longer than before by much of the time."""
    ours, theirs = _layer_times(before.rows), _layer_times(after.rows)
    lost = {name: theirs[name] - ours[name] for name in theirs if name in ours and theirs[name] > ours[name]}
    whole = sum(lost.values())
    share = whole / (after.total_ms or 1.0)
    if share < _SOME:
        return None
    first = max(lost, key=lambda name: lost[name])
    return Bottleneck(
        "slower layers",
        f"{_count(len(lost), 'layer')} with more time than before, {_ms(whole)} or {_percent(share)} of all of it: "
        f"{first} went from {_ms(ours[first])} to {_ms(theirs[first])}.",
        share,
    )


def _layer_times(rows: Sequence[LayerTime]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        found[row.layer] = found.get(row.layer, 0.0) + row.ms
    return found


def _product_times(rows: Sequence[LayerTime]) -> dict[str, tuple[float, str]]:
    """Return ms and precision of the products of each layer."""
    found: dict[str, tuple[float, str]] = {}
    for row in rows:
        if is_product(row.op):
            ms, precision = found.get(row.layer, (0.0, row.precision or "float32"))
            found[row.layer] = ms + row.ms, precision
    return found


def _ms(value: float) -> str:
    return f"{value:.3g} ms"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
