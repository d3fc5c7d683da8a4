"""Progress events of long work, within a process or across processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Progress:
    """One progress event.

    ``stage`` names the work (``"distill"``); ``done`` and ``total`` (0: unknown) are in the stage's unit; ``values``
    holds live figures such as ``{"loss": 0.31}``.
    """

    stage: str
    done: float = 0.0
    total: float = 0.0
    message: str = ""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def fraction(self) -> float | None:
        """Fraction done between 0 and 1, or None if the total is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else None


ProgressCallback = Callable[[Progress], None]
"""Called with each event; it may raise :class:`workbench.core.errors.Cancelled` to stop the work."""


def ignore_progress(_: Progress) -> None:
    """Drop the event: the default callback."""
