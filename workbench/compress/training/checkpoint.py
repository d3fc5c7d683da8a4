"""Checkpoint of one training, from which it resumes after a crash."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.core.errors import WorkbenchError
from workbench.core.files import atomic_write

EVERY_S = 30.0
"""Seconds between checkpoints."""
_SHARE = 0.05  # largest share of the time for writing


@dataclass(frozen=True)
class Checkpoint:
    """File with the state of one training: replaced atomically, removed at the end."""

    path: Path

    def load(self, signature: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return the state saved under ``signature``, or None with a note if the file cannot be used.

        Only tensors and plain values are read (``torch.load(weights_only=True)``), so that no code runs.
        """
        if not self.path.is_file():
            return None, None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            saved = state["signature"]
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
            reason = f"it cannot be read ({type(error).__name__})"
        else:
            if saved == signature:
                return dict(state), None
            reason = "it belongs to a training with other weights or options"
        return None, f"The checkpoint {self.path.name} was not used: {reason}. Training started from the beginning."

    def save(self, signature: str, state: dict[str, Any]) -> float:
        """Write the state; return the time of the next write (``time.perf_counter``).

        If the disk is full, the previous state is kept and training goes on.
        """
        started = time.perf_counter()
        with contextlib.suppress(OSError, RuntimeError, WorkbenchError), atomic_write(self.path) as temporary:
            torch.save({**state, "signature": signature}, temporary)
        ended = time.perf_counter()
        return self.due(ended, (ended - started) / _SHARE)

    def due(self, now: float, pause: float = 0.0) -> float:
        """Return the time of the next write: after ``pause`` seconds, at least :data:`EVERY_S`."""
        return now + max(EVERY_S, pause)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
