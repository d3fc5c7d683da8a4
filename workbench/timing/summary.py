"""Latency of one arm: median over blocks with its 95 % CI, IQR and tail percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.core.stats import median_interval, median_iqr, percentile
from workbench.timing.blocks import Block, Samples

MIN_BLOCKS = 6
"""Fewer blocks do not bound a median at 95 % by order statistics."""
_MIN_CALLS = {"p90": (0.9, 36), "p99": (0.99, 368)}


@dataclass(frozen=True)
class Timing:
    """Latency of one arm, in ms per call.

    ``p50`` is the median of the medians of blocks, and ``low``/``high`` bound it at 95 % by order statistics over them,
    because calls within a block are not independent. These three leave out calls that waited for a core if enough
    blocks have undisturbed ones; ``undisturbed`` is the share of those. The other figures are of all calls together. A
    figure that the samples do not resolve is None, and ``notes`` holds the reason.
    """

    blocks: tuple[Samples, ...]
    p50: float
    iqr: float
    low: float | None
    high: float | None
    p90: float | None
    p99: float | None
    notes: dict[str, str]
    undisturbed: float = 1.0

    @property
    def calls(self) -> int:
        """Number of calls that were timed."""
        return sum(block.size for block in self.blocks)

    @classmethod
    def of(cls, blocks: Sequence[Any]) -> Timing:
        """Summarize blocks, or lists of ms per call.

        Examples
        --------
        >>> timing = Timing.of([[1.0, 2.0, 3.0]] * 6)
        >>> timing.p50, timing.p99, timing.notes["p99"]
        (2.0, None, '18 calls do not resolve p99: 368 are needed.')
        """
        timed = [Block.of(block) for block in blocks]
        arrays = tuple(block.ms for block in timed)
        samples = np.concatenate(arrays)
        kept = [block.undisturbed_ms for block in timed]
        share = sum(ms.size for ms in kept) / samples.size
        enough = sum(ms.size > 0 for ms in kept) >= min(MIN_BLOCKS, len(timed))
        medians = [float(np.median(ms)) for ms in (kept if enough else arrays) if ms.size]
        iqr, bounds = median_iqr(samples)[1], median_interval(medians)
        notes = {} if bounds else {"low": f"{len(medians)} blocks do not bound the median: {MIN_BLOCKS} are needed."}
        if not enough:
            notes["p50"] = f"{1 - share:.0%} of the calls waited for a core, which raises their median."
        tails: dict[str, float | None] = {}
        for name, (q, minimum) in _MIN_CALLS.items():
            tails[name] = percentile(samples, q)
            if tails[name] is None:
                notes[name] = f"{samples.size} calls do not resolve {name}: {minimum} are needed."
        low, high = bounds or (None, None)
        return cls(arrays, float(np.median(medians)), iqr, low, high, tails["p90"], tails["p99"], notes, share)
