"""The profile of a variant: a row per executed node, and the calls without the profiler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.format.numbers import plural, text_table

if TYPE_CHECKING:
    import pandas as pd

    from workbench.measure.profiling.work import LayerWork

_MAX_ROWS = 15
MAX_WIDTH = 34
"""Characters of a cell in the text of a profile."""


@dataclass(frozen=True)
class LayerTime:
    """One executed node.

    Attributes
    ----------
    layer, node, op : str
        The module of the node (without one, the node's name), and the runtime's own names of node and operator.
    ms, share : float
        ms per call, median over calls (OpenVINO: mean), and its share of the sum of all rows, 0 to 1.
    precision : str or None
        Compute precision, None if unknown.
    provider : str
        Execution provider or device.
    shape : tuple of int or None
        Shape of the first output, if known.
    """

    layer: str
    op: str
    ms: float
    share: float
    precision: str | None
    provider: str
    shape: tuple[int, ...] | None
    node: str


@dataclass(frozen=True)
class Profile:
    """Profile of one variant on one engine; see :func:`workbench.profile`.

    Attributes
    ----------
    rows : tuple of LayerTime
        Nodes in the order of computation.
    plain_ms, fast_ms : float
        Median and 10th percentile of calls without the profiler, before and after the profiled ones.
    profiled_ms : float
        Median of profiled calls.
    requested, precision : str
        Requested and actual compute precision.
    work, modules : tuple of LayerWork, frozenset of str
        Operations and memory of the layers, empty if they cannot be counted; names of all layers of the module.
    fallbacks, disturbed : tuple of str
        Fallbacks of device or provider, and disturbances of the machine.
    trace : Path or None
        Trace file for chrome://tracing or Perfetto.
    """

    task: str
    label: str
    backend: str
    device: str
    batch_size: int
    threads: int
    requested: str
    precision: str
    quantized: bool
    calls: int
    rows: tuple[LayerTime, ...]
    plain_ms: float
    fast_ms: float
    profiled_ms: float
    macs: int
    work: tuple[LayerWork, ...] = field(repr=False)
    modules: frozenset[str] = field(default=frozenset(), repr=False)
    fallbacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()
    trace: Path | None = None

    @property
    def total_ms(self) -> float:
        """Sum of the rows."""
        return sum(row.ms for row in self.rows)

    @property
    def overhead_ms(self) -> float:
        """Overhead of the profiler per call."""
        return self.profiled_ms - self.plain_ms

    @property
    def outside_ms(self) -> float:
        """Lower bound of the time outside of all rows: Python, launches, copies, waiting for threads.

        A lower bound because the profiler lengthens rows. It uses the fast plain calls, because the median of calls
        includes moments with load of other processes, which medians of single nodes do not.
        """
        return max(0.0, self.fast_ms - self.total_ms)

    def by_layer(self) -> pd.DataFrame:
        """Return a row per layer, the longest first: layer, op (all of them), ms, share, precision, nodes."""
        return self._grouped("layer", "op")

    def by_op(self) -> pd.DataFrame:
        """Return a row per operator, the longest first: op, ms, share, precision, nodes."""
        return self._grouped("op")

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame in the order of computation."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(LayerTime.__dataclass_fields__))

    def _grouped(self, key: str, *texts: str) -> pd.DataFrame:
        groups = self.frame().groupby(key, sort=False)
        table = groups[["ms", "share"]].sum()
        for number, name in enumerate((*texts, "precision")):
            table.insert(0 if name in texts else 2 + number, name, groups[name].agg(_unique))
        table["nodes"] = groups.size()
        return table.sort_values("ms", ascending=False, kind="stable").reset_index()

    def __str__(self) -> str:
        heads = ("layer", "op", "ms", "share", "precision", "provider")
        rows = sorted(self.rows, key=lambda row: -row.ms)
        cells = [
            (row.layer, row.op, ms_text(row.ms), f"{100 * row.share:.1f} %", row.precision or "–", row.provider)
            for row in rows[:_MAX_ROWS]
        ]
        lines = [head_of(self), "", *text_table(heads, cells, right=(2, 3), rule=True, widest=MAX_WIDTH)]
        if len(rows) > _MAX_ROWS:
            rest = sum(row.ms for row in rows[_MAX_ROWS:])
            lines.append(f"... and {len(rows) - _MAX_ROWS} more: {rest:.4f} ms")
        overhead = f"{100 * self.overhead_ms / self.plain_ms:+.0f} % profiler overhead"
        lines += [
            "",
            f"sum of {len(rows)} rows  {self.total_ms:.4f} ms",
            f"plain call        {self.plain_ms:.4f} ms (10th percentile {self.fast_ms:.4f} ms)",
            f"profiled call     {self.profiled_ms:.4f} ms ({overhead})",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in (*self.notes, *disturbed_of(self)))])


def ms_by(rows: Iterable[LayerTime], field: str) -> dict[str, float]:
    """Return the sum of the ms of rows for each value of one of their fields."""
    sums: dict[str, float] = {}
    for row in rows:
        name = getattr(row, field)
        sums[name] = sums.get(name, 0.0) + row.ms
    return sums


def head_of(profile: Profile) -> str:
    """Return variant, engine and settings in one line."""
    return (
        f"{profile.task}, {profile.label} on {profile.backend} ({profile.device}), batch {profile.batch_size}, "
        f"{plural(profile.threads, 'thread')}, {profile.calls} calls"
    )


def disturbed_of(profile: Profile) -> list[str]:
    """Return a note for a disturbed profile."""
    if not profile.disturbed:
        return []
    return [f"disturbed: {', '.join(profile.disturbed)}. Profile {profile.label!r} again on an idle machine."]


def ms_text(value: float | None) -> str:
    """Return ms with four decimals, a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def _unique(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
