"""Progress events: what long work reports while it runs, in a process or across one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Progress:
    """One report from running work.

    ``stage`` names the work (``"distill"``), ``done`` of ``total`` counts it in the stage's own unit
    (``total`` 0: unknown), ``values`` holds figures worth showing live, for example ``{"loss": 0.31}``.
    """

    stage: str
    done: float = 0.0
    total: float = 0.0
    message: str = ""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def fraction(self) -> float | None:
        """Share done between 0 and 1, or None where the total is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else None


ProgressCallback = Callable[[Progress], None]
"""Called with each report; it may raise :class:`workbench.core.errors.Cancelled` to stop the work."""


def ignore_progress(_: Progress) -> None:
    """Default callback: drop the report."""
