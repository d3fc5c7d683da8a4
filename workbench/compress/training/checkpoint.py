"""A file from which a killed training goes on; plain tensors and numbers, written all or nothing."""

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
"""Seconds between two checkpoints."""
# Writing takes at most this share of the time.
_SHARE = 0.05


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of one training is kept while it runs.

    Parameters
    ----------
    path
        The file. It is written beside itself and renamed, so that it is always whole, and gone once training ended.

    Examples
    --------
    >>> Checkpoint(Path("checkpoints/distill.pt")).load("a1b2c3")
    (None, None)
    """

    path: Path

    def load(self, signature: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return the state that was saved under ``signature``, or None; and a note where there is a file of no use.

        Nothing but tensors and plain values is read (``torch.load(weights_only=True)``), so that no code runs.
        """
        if not self.path.is_file():
            return None, None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            found = state["signature"]
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
            reason = f"it cannot be read ({type(error).__name__})"
        else:
            if found == signature:
                return dict(state), None
            reason = "it is of a training with other weights or options"
        return None, f"The checkpoint {self.path.name} was not used: {reason}. Training began anew."

    def save(self, signature: str, state: dict[str, Any]) -> float:
        """Write the state; return when it should be written again, in seconds of ``time.perf_counter``.

        A disk that is full ends no training: the state before it stays.
        """
        started = time.perf_counter()
        with contextlib.suppress(OSError, RuntimeError, WorkbenchError), atomic_write(self.path) as temporary:
            torch.save({**state, "signature": signature}, temporary)
        ended = time.perf_counter()
        return self.due(ended, (ended - started) / _SHARE)

    def due(self, now: float, pause: float = 0.0) -> float:
        """Return when the next state should be written: after ``pause`` seconds, or :data:`EVERY_S` if that is more."""
        return now + max(EVERY_S, pause)

    def remove(self) -> None:
        """Delete the file: the training has ended."""
        self.path.unlink(missing_ok=True)
