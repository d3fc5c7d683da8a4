"""The profile of a variant: a row per executed node, and the calls without the profiler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.measure.profiling.text import profile_text

if TYPE_CHECKING:
    import pandas as pd

    from workbench.measure.profiling.work import LayerWork


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

        columns = list(LayerTime.__dataclass_fields__)
        return pd.DataFrame([[getattr(row, name) for name in columns] for row in self.rows], columns=columns)

    def _grouped(self, key: str, *texts: str) -> pd.DataFrame:
        groups = self.frame().groupby(key, sort=False)
        table = groups[["ms", "share"]].sum()
        for number, name in enumerate((*texts, "precision")):
            table.insert(0 if name in texts else 2 + number, name, groups[name].agg(_unique))
        table["nodes"] = groups.size()
        return table.sort_values("ms", ascending=False, kind="stable").reset_index()

    def __str__(self) -> str:
        return profile_text(self)


def _unique(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
