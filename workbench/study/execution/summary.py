"""The summary of a run: trials by state, and seconds by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunSummary:
    """Numbers of trials that are finished, reused from earlier runs, failed, and open; ``cut`` lists what was left out.

    ``phases_s`` are the wall-clock seconds of each of :data:`workbench.study.workers.phases.PHASES`; ``covered_s`` are
    those of any of them.
    """

    finished: int
    reused: int
    failed: int
    open: int
    cancelled: bool
    seconds: float
    cut: tuple[str, ...] = ()
    phases_s: Mapping[str, float] = field(default_factory=dict)
    covered_s: float = 0.0

    @property
    def harness_s(self) -> float | None:
        """Seconds outside of all phases: process starts, imports, database. None on a cluster."""
        return max(0.0, self.seconds - self.covered_s)

    def __repr__(self) -> str:
        counts = ((self.reused, "reused"), (self.failed, "failed"), (self.open, "open"))
        parts = [f"{self.finished} trials finished in {self.seconds:.0f} s", *(f"{n} {w}" for n, w in counts if n)]
        text = ", ".join(parts) + ("; cancelled" if self.cancelled else "")
        lines = [f"RunSummary({text})"]
        if self.phases_s:
            spent = ", ".join(f"{phase} {seconds:.0f}" for phase, seconds in self.phases_s.items())
            lines.append(f"  seconds by phase: {spent}; the workbench itself {self.harness_s:.0f}")
        return "\n".join([*lines, *(f"  {line}" for line in self.cut)])
