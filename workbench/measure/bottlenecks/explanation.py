"""Compare two profiles layer by layer, and explain the bottlenecks of a profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.core.format.numbers import text_table
from workbench.measure.bottlenecks import rules
from workbench.measure.bottlenecks.rules import Bottleneck
from workbench.measure.profiling.rows import MAX_WIDTH, Profile, disturbed_of, head_of, ms_by, ms_text
from workbench.measure.rooflines.peaks import MachinePeaks, cached_peaks

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Explanation:
    """The bottlenecks of a variant, the largest first, and the rules that were checked.

    Examples
    --------
    >>> print(Explanation((), ("launch-bound",), ()))
    No bottleneck found (checked: launch-bound).
    """

    bottlenecks: tuple[Bottleneck, ...]
    checked: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"- {bottleneck}" for bottleneck in self.bottlenecks]
        if not lines:
            lines = [f"No bottleneck found (checked: {', '.join(self.checked)})."]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def explain(profile: Profile, before: Profile | None = None, *, peaks: MachinePeaks | None = None) -> Explanation:
    """Find the bottlenecks of a variant, each with the evidence in its profile.

    Parameters
    ----------
    before : Profile, optional
        Profile of the reference, to find the time that no step reduced.
    peaks : MachinePeaks, optional
        By default the cached result of :func:`workbench.measure_peaks` for these threads.

    Examples
    --------
    >>> print(wb.explain(wb.profile(variant), before))  # doctest: +SKIP
    - launch-bound: 9 of 14 nodes take 10 µs or less, 0.031 ms in total; ...
    """
    _require("explain", profile, *(() if before is None else (before,)))
    if peaks is None:
        peaks = cached_peaks(threads=profile.threads, device=profile.device.partition(":")[0])
    elif not isinstance(peaks, MachinePeaks):
        raise ConfigError(f"explain: peaks must be MachinePeaks (wb.measure_peaks()), got {given(peaks)}.")
    checks: dict[str, Callable[[], Bottleneck | None]] = {
        "launch-bound": lambda: rules.launch_bound(profile),
        "channels": lambda: rules.odd_channels(profile),
        "precision changes": lambda: rules.precision_changes(profile),
        "fallback": lambda: rules.fallback(profile),
        "simulated": lambda: rules.simulated(profile),
        "float products": lambda: rules.float_products(profile),
    }
    if peaks is not None:
        checks["memory-bound"] = lambda: rules.memory_bound(profile, peaks)
    if before is not None:
        checks["untouched"] = lambda: rules.untouched(before, profile)
        checks["slower layers"] = lambda: rules.slower_layers(before, profile)
    detected = (bottleneck for rule in checks.values() if (bottleneck := rule()) is not None)
    ordered = tuple(sorted(detected, key=lambda bottleneck: -bottleneck.share))
    notes = list(dict.fromkeys(note for one in (profile, before) if one is not None for note in disturbed_of(one)))
    if profile.disturbed and (note := rules.ambiguous_overhead(profile)):
        notes.append(note)
    if not ordered and profile.rows:
        notes.append(_slowest(profile))
    if peaks is None:
        notes.append("memory-bound was not checked: the peaks of this machine are missing; run wb.measure_peaks()")
    return Explanation(ordered, tuple(checks), tuple(notes))


@dataclass(frozen=True)
class LayerChange:
    """One layer in two profiles; operators and ms are None if it has no node.

    ``saved_ms`` is before minus after, ``ratio`` the speedup. ``state`` is ``both``, ``gone`` or ``new``, and ``why``
    the reason why the layer is gone, if known.
    """

    layer: str
    op_before: str | None
    op_after: str | None
    before_ms: float | None
    after_ms: float | None
    saved_ms: float
    ratio: float | None
    state: str
    why: str = ""


@dataclass(frozen=True)
class ProfileComparison:
    """Comparison of two profiles by :func:`workbench.compare_profiles`; ``rows`` starts with the largest saving."""

    before: Profile
    after: Profile
    rows: tuple[LayerChange, ...]

    @property
    def saved_ms(self) -> float:
        """Saved ms of a plain call; negative if it is slower."""
        return self.before.plain_ms - self.after.plain_ms

    @property
    def speedup(self) -> float:
        """Speedup of a plain call."""
        return self.before.plain_ms / self.after.plain_ms

    def explain(self, *, peaks: MachinePeaks | None = None) -> Explanation:
        """Return the bottlenecks of the second profile; see :func:`workbench.explain`."""
        return explain(self.after, self.before, peaks=peaks)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(LayerChange.__dataclass_fields__))

    def __str__(self) -> str:
        cells = [
            (
                row.layer,
                row.op_after or row.op_before or "",
                ms_text(row.before_ms),
                ms_text(row.after_ms),
                f"{row.saved_ms:+.4f}",
                "–" if row.ratio is None else f"{row.ratio:.2f}x",
                row.state if not row.why else f"{row.state}: {row.why}",
            )
            for row in self.rows
        ]
        heads = ("layer", "op", "before ms", "after ms", "saved ms", "speedup", "state")
        lines = [f"before: {head_of(self.before)}", f"after:  {head_of(self.after)}", ""]
        lines += text_table(heads, cells, right=(2, 3, 4, 5), rule=True, widest=MAX_WIDTH)
        lines += [
            "",
            f"sum of rows  {self.before.total_ms:.4f} -> {self.after.total_ms:.4f} ms",
            f"plain call   {self.before.plain_ms:.4f} -> {self.after.plain_ms:.4f} ms ({self.speedup:.2f}x speedup)",
        ]
        return "\n".join(lines)


def compare_profiles(before: Profile, after: Profile) -> ProfileComparison:
    """Compare two profiles by layer: saved time, removed layers and new layers.

    A split layer (``conv`` into ``conv.0`` and ``conv.1``) is compared with the sum of its parts. Layers that were
    removed from the model are distinguished from layers that a runtime fused.

    Raises
    ------
    ConfigError
        If an argument is not a Profile, or tasks or batch sizes differ.

    Examples
    --------
    >>> print(wb.compare_profiles(wb.profile(original), wb.profile(pruned)))  # doctest: +SKIP
    """
    _require("compare_profiles", before, after)
    if (before.task, before.batch_size) != (after.task, after.batch_size):
        raise ConfigError(
            f"compare_profiles: profiles must have the same task and batch size, got {before.task!r} at batch "
            f"{before.batch_size} and {after.task!r} at batch {after.batch_size}."
        )
    old = _layers(before)
    new = _merge_parts(_layers(after), set(old))
    names = dict.fromkeys((*old, *new))
    rows = [_change(name, old.get(name), new.get(name), why=_why(name, before, after)) for name in names]
    return ProfileComparison(before, after, tuple(sorted(rows, key=lambda row: -row.saved_ms)))


def _require(where: str, *profiles: object) -> None:
    for one in profiles:
        if not isinstance(one, Profile):
            raise ConfigError(f"{where} takes a Profile (wb.profile(...)), got {given(one)}.")


def _slowest(profile: Profile) -> str:
    """Return a note on the slowest layers."""
    times = ms_by(profile.rows, "layer")
    first = sorted(times, key=lambda name: -times[name])[:3]
    parts = (f"{name} {100 * times[name] / (profile.total_ms or 1.0):.0f} %" for name in first)
    return f"slowest layers: {', '.join(parts)}"


def _layers(profile: Profile) -> dict[str, tuple[str, float]]:
    """Return the operators and the ms of each layer."""
    layers: dict[str, tuple[list[str], float]] = {}
    for row in profile.rows:
        ops, ms = layers.get(row.layer, ([], 0.0))
        layers[row.layer] = ([*ops, row.op], ms + row.ms)
    return {name: (", ".join(dict.fromkeys(ops)), ms) for name, (ops, ms) in layers.items()}


def _merge_parts(layers: dict[str, tuple[str, float]], names: set[str]) -> dict[str, tuple[str, float]]:
    """Merge the parts of a split layer under its name in ``names``."""
    whole = names - set(layers)
    merged: dict[str, tuple[str, float]] = {}
    for name, (ops, ms) in layers.items():
        parent = name.rpartition(".")[0]
        target = parent if name not in names and parent in whole else name
        if target in merged:
            first, before_ms = merged[target]
            ops, ms = ", ".join(dict.fromkeys([*first.split(", "), *ops.split(", ")])), before_ms + ms
        merged[target] = ops, ms
    return merged


def _change(name: str, old: tuple[str, float] | None, new: tuple[str, float] | None, *, why: str) -> LayerChange:
    op_before, before = old or (None, None)
    op_after, after = new or (None, None)
    saved = (before or 0.0) - (after or 0.0)
    ratio = before / after if before is not None and after else None
    state = "gone" if new is None else "new" if old is None else "both"
    return LayerChange(name, op_before, op_after, before, after, saved, ratio, state, why if state == "gone" else "")


def _why(name: str, before: Profile, after: Profile) -> str:
    """Return why a layer has no node of its own in the second profile."""
    if name in after.modules:
        return "fused into another node"
    return "removed from the model" if name in before.modules and after.modules else "no such node"
