"""What a profile holds: a row for each node that a runtime ran, beside the calls without the profiler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.measure.profiling.text import profile_text

if TYPE_CHECKING:
    import pandas as pd

    from workbench.measure.rooflines.work import LayerWork


@dataclass(frozen=True)
class LayerTime:
    """One node of what the runtime runs.

    Attributes
    ----------
    layer : str
        The module that it belongs to; the node's own name where it belongs to none.
    op : str
        The runtime's word for what it does: ``Conv``, ``aten::conv2d``, ``FullyConnected``.
    ms : float
        Milliseconds per call: the median over calls, or the mean where the runtime keeps no more (OpenVINO).
    share : float
        Of the sum of all rows, from 0 to 1.
    precision : str or None
        What it computes in, None where the runtime does not say.
    provider : str
        Where it runs: an execution provider or a device.
    shape : tuple of int or None
        Of its first output, where known.
    node : str
        The runtime's own name of it.
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
    """The rows of one variant on one engine; see :func:`workbench.profile`.

    Attributes
    ----------
    rows : tuple of LayerTime
        In the order of computation.
    plain_ms : float
        Median of a call without the profiler, before and after the profiled ones.
    fast_ms : float
        What a tenth of those calls stay below: how long one takes that nothing disturbs.
    profiled_ms : float
        Median of a call with it.
    work : tuple of LayerWork
        What the layers compute and touch, counted on the torch module; empty where that cannot be counted.
    modules : frozenset of str
        The names of all layers of the module.
    fallbacks : tuple of str
        What runs elsewhere than asked.
    disturbed : tuple of str
        What else had the cores meanwhile; empty where the times are to be trusted.
    trace : Path or None
        The file for chrome://tracing or Perfetto.
    """

    task: str
    label: str
    backend: str
    device: str
    batch_size: int
    threads: int
    asked: str
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
        """The sum of the rows."""
        return sum(row.ms for row in self.rows)

    @property
    def overhead_ms(self) -> float:
        """What the profiler itself adds to a call."""
        return self.profiled_ms - self.plain_ms

    @property
    def outside_ms(self) -> float:
        """At least so much of a call lies outside of all rows: Python, launching, copying, waiting for threads.

        Rows are lengthened by the profiler, so that it may be more; and it is taken from the fastest plain calls, since
        medians of single nodes do not see the moments in which something else has the cores, and that of calls does.
        """
        return max(0.0, self.fast_ms - self.total_ms)

    def by_layer(self) -> pd.DataFrame:
        """Return a row per layer, the longest first: layer, op (all of them), ms, share, precision, nodes."""
        return self._grouped("layer", "op")

    def by_op(self) -> pd.DataFrame:
        """Return a row per kind of operator, the longest first: op, ms, share, precision, nodes."""
        return self._grouped("op")

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame, in the order of computation."""
        import pandas as pd

        columns = list(LayerTime.__dataclass_fields__)
        return pd.DataFrame([[getattr(row, name) for name in columns] for row in self.rows], columns=columns)

    def _grouped(self, key: str, *joined: str) -> pd.DataFrame:
        groups = self.frame().groupby(key, sort=False)
        found = groups[["ms", "share"]].sum()
        for number, name in enumerate((*joined, "precision")):
            found.insert(0 if name in joined else 2 + number, name, groups[name].agg(_words))
        found["nodes"] = groups.size()
        return found.sort_values("ms", ascending=False, kind="stable").reset_index()

    def __str__(self) -> str:
        return profile_text(self)


def _words(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))
