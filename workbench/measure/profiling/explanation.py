"""Two profiles side by side, layer by layer, and the bottlenecks of the second."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.measure.profiling import bottlenecks as rules
from workbench.measure.profiling.bottlenecks import Bottleneck
from workbench.measure.profiling.rows import Profile
from workbench.measure.profiling.text import disturbed_of, head_of, table
from workbench.measure.rooflines.peaks import MachinePeaks, cached_peaks

if TYPE_CHECKING:
    import pandas as pd

NO_PEAKS = "memory-bound was not looked for: it needs this machine's peaks (wb.measure_peaks())"


@dataclass(frozen=True)
class Explanation:
    """The bottlenecks of a variant, the largest first, and what could not be looked for.

    Examples
    --------
    >>> print(Explanation((), ("launch-bound",), ()))
    No usual cause was found (looked for: launch-bound).
    """

    reasons: tuple[Bottleneck, ...]
    looked_for: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"- {reason}" for reason in self.reasons]
        if not lines:
            lines = [f"No usual cause was found (looked for: {', '.join(self.looked_for)})."]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def explain(profile: Profile, before: Profile | None = None, *, peaks: MachinePeaks | None = None) -> Explanation:
    """Return the bottlenecks of a variant, each with the evidence in its profile.

    Parameters
    ----------
    profile : Profile
        Of the variant in question.
    before : Profile, optional
        Of what it is held against: what no step could shorten is found too.
    peaks : MachinePeaks, optional
        By default those that :func:`workbench.measure_peaks` kept for this machine and these threads.

    Raises
    ------
    ConfigError
        If an argument is something else.

    Examples
    --------
    >>> print(wb.explain(wb.profile(variant), before))  # doctest: +SKIP
    - launch-bound: 9 of 14 nodes take 10 µs or less, 0.031 ms; ...
    """
    _require("explain", profile, *(() if before is None else (before,)))
    if peaks is None:
        peaks = cached_peaks(threads=profile.threads, device=profile.device.partition(":")[0])
    elif not isinstance(peaks, MachinePeaks):
        raise ConfigError(f"explain: peaks must be what wb.measure_peaks() returns, got {given(peaks)}.")
    looked: dict[str, Callable[[], Bottleneck | None]] = {
        "launch-bound": lambda: rules.launch_bound(profile),
        "channels": lambda: rules.odd_channels(profile),
        "precision changes": lambda: rules.precision_changes(profile),
        "fallback": lambda: rules.fallback(profile),
        "simulated": lambda: rules.simulated(profile),
        "float products": lambda: rules.float_products(profile),
    }
    if peaks is not None:
        looked["memory-bound"] = lambda: rules.memory_bound(profile, peaks)
    if before is not None:
        looked["untouched"] = lambda: rules.untouched(before, profile)
        looked["slower layers"] = lambda: rules.slower_layers(before, profile)
    found = [reason for rule in looked.values() if (reason := rule()) is not None]
    ordered = tuple(sorted(found, key=lambda reason: -reason.share))
    notes = list(dict.fromkeys(note for one in (profile, before) if one is not None for note in disturbed_of(one)))
    if profile.disturbed and (words := rules.hidden_by_others(profile)):
        notes.append(words)
    if not found and profile.rows:
        notes.append(_where(profile))
    return Explanation(ordered, tuple(looked), (*notes, *((NO_PEAKS,) if peaks is None else ())))


@dataclass(frozen=True)
class LayerChange:
    """One layer in two profiles.

    Attributes
    ----------
    op_before, op_after : str or None
        All that the layer's nodes do.
    before_ms, after_ms : float or None
        None where the layer has no node.
    saved_ms : float
        Before less after; negative where it takes longer.
    ratio : float or None
        Before over after: 2.0 is twice as fast. None where one of them is missing.
    state : str
        ``both``, ``gone`` or ``new``.
    why : str
        Why it is gone, where that is known.
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
    """Two profiles layer by layer; see :func:`workbench.compare_profiles`. ``rows``: the largest saving first."""

    before: Profile
    after: Profile
    rows: tuple[LayerChange, ...]

    @property
    def saved_ms(self) -> float:
        """Milliseconds by which a plain call is shorter; negative where it is longer."""
        return self.before.plain_ms - self.after.plain_ms

    @property
    def speedup(self) -> float:
        """Plain call before over after."""
        return self.before.plain_ms / self.after.plain_ms

    def explain(self, *, peaks: MachinePeaks | None = None) -> Explanation:
        """Return the bottlenecks of the second profile; see :func:`workbench.explain`."""
        return explain(self.after, self.before, peaks=peaks)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame."""
        import pandas as pd

        columns = list(LayerChange.__dataclass_fields__)
        return pd.DataFrame([[getattr(row, name) for name in columns] for row in self.rows], columns=columns)

    def __str__(self) -> str:
        cells = [
            (
                row.layer,
                row.op_after or row.op_before or "",
                _number(row.before_ms),
                _number(row.after_ms),
                f"{row.saved_ms:+.4f}",
                "-" if row.ratio is None else f"{row.ratio:.2f}x",
                row.state if not row.why else f"{row.state}: {row.why}",
            )
            for row in self.rows
        ]
        heads = ("layer", "op", "before ms", "after ms", "saved ms", "ratio", "state")
        lines = [f"before: {head_of(self.before)}", f"after:  {head_of(self.after)}", ""]
        lines += table(heads, cells, right=(2, 3, 4, 5))
        sums = (
            f"sum of rows   {self.before.total_ms:.4f} -> {self.after.total_ms:.4f} ms",
            f"a plain call  {self.before.plain_ms:.4f} -> {self.after.plain_ms:.4f} ms ({self.speedup:.2f}x)",
        )
        return "\n".join([*lines, "", *sums])


def compare_profiles(before: Profile, after: Profile) -> ProfileComparison:
    """Put two profiles side by side by layer: what each saved, which layers are gone and which are new.

    A layer that was split (``conv`` into ``conv.0`` and ``conv.1``) is held against its parts together. Layers that are
    gone from the model are told apart from those that a runtime has fused into another.

    Raises
    ------
    ConfigError
        If they are no profiles, or of another task or batch size.

    Examples
    --------
    >>> print(wb.compare_profiles(wb.profile(original), wb.profile(pruned)))  # doctest: +SKIP
    """
    _require("compare_profiles", before, after)
    if (before.task, before.batch_size) != (after.task, after.batch_size):
        raise ConfigError(
            f"compare_profiles: {before.task!r} in batches of {before.batch_size} and {after.task!r} in batches of "
            f"{after.batch_size} are not the same work. Profile both on one task and batch size."
        )
    ours, theirs = _layers(before), _layers(after)
    theirs = _joined(theirs, set(ours))
    rows = [
        _change(name, ours.get(name), theirs.get(name), why=_why(name, before, after))
        for name in dict.fromkeys((*ours, *theirs))
    ]
    return ProfileComparison(before, after, tuple(sorted(rows, key=lambda row: -row.saved_ms)))


def _require(where: str, *profiles: object) -> None:
    for one in profiles:
        if not isinstance(one, Profile):
            raise ConfigError(f"{where} takes what wb.profile(...) returns, got {given(one)}.")


def _where(profile: Profile) -> str:
    """Return in words which layers the time goes into."""
    times = {name: ms for name, (_, ms) in _layers(profile).items()}
    first = sorted(times, key=lambda name: -times[name])[:3]
    parts = (f"{name} {100 * times[name] / (profile.total_ms or 1.0):.0f} %" for name in first)
    return f"the time of the nodes goes into {', '.join(parts)}: less work there would make it shorter"


def _layers(profile: Profile) -> dict[str, tuple[str, float]]:
    """Return what each layer does and its ms."""
    found: dict[str, tuple[list[str], float]] = {}
    for row in profile.rows:
        ops, ms = found.get(row.layer, ([], 0.0))
        found[row.layer] = ([*ops, row.op], ms + row.ms)
    return {name: (", ".join(dict.fromkeys(ops)), ms) for name, (ops, ms) in found.items()}


def _joined(layers: dict[str, tuple[str, float]], known: Iterable[str]) -> dict[str, tuple[str, float]]:
    """Put the parts of a layer that the other profile has whole together under its name."""
    whole = set(known) - set(layers)
    found: dict[str, tuple[str, float]] = {}
    for name, (ops, ms) in layers.items():
        above = name.rpartition(".")[0]
        target = above if name not in known and above in whole else name
        before = found.get(target)
        found[target] = (ops, ms) if before is None else (_both(before[0], ops), before[1] + ms)
    return found


def _both(first: str, second: str) -> str:
    return ", ".join(dict.fromkeys([*first.split(", "), *second.split(", ")]))


def _change(name: str, ours: tuple[str, float] | None, theirs: tuple[str, float] | None, *, why: str) -> LayerChange:
    before, after = (None if one is None else one[1] for one in (ours, theirs))
    saved = (before or 0.0) - (after or 0.0)
    ratio = before / after if before is not None and after else None
    state = "gone" if theirs is None else "new" if ours is None else "both"
    return LayerChange(
        name, None if ours is None else ours[0], None if theirs is None else theirs[0], before, after, saved, ratio,
        state, why if state == "gone" else "",
    )  # fmt: skip


def _why(name: str, before: Profile, after: Profile) -> str:
    """Return why a layer may have no node of its own in the second profile."""
    if name in after.modules:
        return "fused into another node"
    return "not in the model any more" if name in before.modules and after.modules else "no such node"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
