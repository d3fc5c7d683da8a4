"""trials.jsonl: one line of JSON per trial."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.core.config import without_nan
from workbench.core.files import atomic_write


def write_trials(rows: Iterable[Mapping[str, Any]], path: str | Path) -> Path:
    """Write one line per row, in the order given; a number that is not finite becomes null.

    The steps' lists of layers, which every trial of a recipe would repeat, are left out. The file takes its place
    in one step, so that a reader never sees half of it.
    """
    with atomic_write(path) as temporary:
        lines = (json.dumps(plain_row(row), ensure_ascii=False, allow_nan=False) for row in rows)
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Path(path)


def read_trials(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows that :func:`write_trials` wrote."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line]


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON can hold it, without the steps' lists of layers; what is not finite is None."""
    steps = [{k: v for k, v in step.items() if k != "layers"} for step in row.get("steps") or []]
    plain: dict[str, Any] = without_nan({**row, "steps": steps})
    return plain
