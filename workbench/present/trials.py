"""trials.jsonl: one line of JSON per trial."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.core.config import without_nan
from workbench.core.files import atomic_write


def write_trials(rows: Iterable[Mapping[str, Any]], path: str | Path) -> Path:
    """Write one line per row, atomically and in the given order.

    A number that is not finite becomes null. The layers of each step are left out, because every trial of a recipe
    would repeat them.
    """
    with atomic_write(path) as temporary:
        lines = (json.dumps(plain_row(row), ensure_ascii=False, allow_nan=False) for row in rows)
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Path(path)


def read_trials(path: str | Path) -> list[dict[str, Any]]:
    """Read the rows of :func:`write_trials`."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line]


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON values, without the layers of each step; None for numbers that are not finite."""
    steps = [{k: v for k, v in step.items() if k != "layers"} for step in row.get("steps") or []]
    plain: dict[str, Any] = without_nan({**row, "steps": steps})
    return plain
