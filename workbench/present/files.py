"""Rows of a study as files: trials.jsonl, Parquet, CSV, or an HTML table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.config import without_nan
from workbench.core.errors import ConfigError
from workbench.core.files import atomic_write
from workbench.core.format.numbers import plural
from workbench.core.lazy import install_command
from workbench.present.findings import Row, notes_by_reason
from workbench.present.html import escaped, style
from workbench.present.tables import TRIALS, table, with_shape_and_machine
from workbench.study.results.schema import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".parquet", ".csv", ".jsonl", ".html")
_NESTED = ("steps", "notes")
# Sort a table by the clicked column: by number if both cells have one.
_SORT = """
document.querySelectorAll("th").forEach((head, place) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], up = head.dataset.up !== "1";
  head.dataset.up = up ? "1" : "0";
  const value = row => row.cells[place].firstChild ? row.cells[place].firstChild.textContent : "";
  const number = words => parseFloat(words.replace(/[\u2212]/g, "-").replace(/,/g, ""));
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)], [m, n] = [number(x), number(y)];
    return isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n;
  };
  [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)).forEach(row => body.appendChild(row));
}));
"""


def write_rows(rows: Sequence[Row], path: str | Path) -> Path:
    """Write rows to a file in the format of its extension: .parquet, .csv, .jsonl or .html.

    Parquet and CSV have all columns of the rows, with ``steps`` and ``notes`` as JSON. The HTML page is one sortable,
    self-contained table with the notes on its figures.

    Raises
    ------
    ConfigError
        If there are no rows, the extension is unknown, or pyarrow is missing for Parquet.
    WorkbenchError
        If the file cannot be written; an existing file is kept.
    """
    target = Path(path)
    check_format(target)
    if not rows:
        raise ConfigError(f"No rows to write to {target}.")
    if target.suffix == ".jsonl":
        return write_trials(rows, target)
    with atomic_write(target) as temporary:
        if target.suffix == ".html":
            temporary.write_text(_html(rows), encoding="utf-8")
        elif target.suffix == ".csv":
            _flat(rows).to_csv(temporary, index=False)
        else:
            _flat(rows).to_parquet(temporary, index=False)
    return target


def check_format(path: Path) -> None:
    """Refuse an unknown extension or one whose library is missing, before any work."""
    if path.suffix not in FORMATS:
        kinds = ", ".join(FORMATS)
        raise ConfigError(f"The extension of {path} must be one of {kinds}; got {path.suffix or 'none'!r}.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            how = install_command("parquet")
            raise ConfigError(f"{path}: Parquet files need pyarrow: {how}. Or write a .csv.") from error


def _flat(rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    def flat(row: dict[str, Any]) -> dict[str, Any]:
        return row | {name: json.dumps(row[name], ensure_ascii=False) for name in _NESTED if name in row}

    return pd.DataFrame([flat(plain_row(row)) for row in rows], columns=list(COLUMNS)).convert_dtypes()


def _html(rows: Sequence[Row]) -> str:
    machines = dict.fromkeys(f"{row.get('machine')} ({row.get('fingerprint')})" for row in rows)
    notes = "".join(
        f"<li><b>{escaped(column)}</b>: {escaped(reason)} <small>{escaped(', '.join(trials))}</small></li>"
        for column, reason, trials in notes_by_reason(rows)
    )
    title = f"{rows[0]['task']}: {plural(len(rows), 'trial')}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title><link rel="icon" href="data:,">
<style>{style()}
body {{ font-family: system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; margin: 28px; color: #1d2429; }}
th {{ cursor: pointer; }} .scroll {{ max-height: none; }} .wbr {{ max-width: none; }}</style></head>
<body><h1>{escaped(title)}</h1><p>{escaped("; ".join(machines))}</p>
<div class="wbr">{table(with_shape_and_machine(TRIALS, rows), rows)}</div>
<details><summary>Notes on figures</summary><ul>{notes}</ul></details>
<script>{_SORT}</script></body></html>
"""


def write_trials(rows: Iterable[Mapping[str, Any]], path: str | Path) -> Path:
    """Write one line per row, atomically and in the given order.

    A number that is not finite becomes null. The layers of each step are left out: every trial would repeat them.
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
