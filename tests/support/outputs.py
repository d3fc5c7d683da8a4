"""What the tests of notebooks share: a task that is quick, and what a notebook showed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHORT = f"{Path(__file__).parents[1] / 'support' / 'short.py'}:short"


def printed(outputs: list[Any]) -> str:
    """Return all that a notebook printed or showed as text."""
    return "".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in outputs)


def pictures(outputs: list[Any]) -> int:
    """Return the number of charts."""
    return sum("image/png" in o.get("data", {}) for o in outputs)
