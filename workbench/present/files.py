"""The rows of a study as a file for other tools: Parquet, CSV, lines of JSON, or one HTML table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import ConfigError
from workbench.core.files import atomic_write
from workbench.core.lazy import install_command
from workbench.present.findings import Row, notes_by_reason
from workbench.present.html import style, text
from workbench.present.tables import MACHINE, SHAPE, TRIALS, table
from workbench.present.trials import plain_row, write_trials
from workbench.study.results.schema import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".parquet", ".csv", ".jsonl", ".html")
_NESTED = ("steps", "notes")
# Sorts a table by the column whose head is clicked: by number where both cells have one.
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
    """Write rows into a file whose ending says the format: .parquet, .csv, .jsonl or .html.

    Parquet and CSV have a column for each of a row's; ``steps`` and ``notes`` are JSON in them. The HTML page is one
    table that needs nothing else, sorted by a click on a head, with what must be known of the figures below it.

    Raises
    ------
    ConfigError
        If there are no rows, the ending is another, or pyarrow is missing for Parquet.
    WorkbenchError
        If the file cannot be written; what was there stays.

    Examples
    --------
    >>> write_rows(study.rows(), "rows.csv")  # doctest: +SKIP
    PosixPath('rows.csv')
    """
    target = Path(path)
    check_format(target)
    if not rows:
        raise ConfigError(f"There are no rows to write into {target}.")
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
    """Refuse an ending that has no format, or whose library is missing, before any work."""
    if path.suffix not in FORMATS:
        raise ConfigError(
            f"{path}: the ending says the format, one of {', '.join(FORMATS)}; got {path.suffix or 'none'!r}."
        )
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{path}: Parquet files need pyarrow. Get it: {install_command('parquet')}. Or write a .csv."
            ) from error


def _flat(rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    flat: list[dict[str, Any]] = []
    for row in map(plain_row, rows):
        nested = {name: json.dumps(row[name], ensure_ascii=False) for name in _NESTED if name in row}
        flat.append({**row, **nested})
    frame = pd.DataFrame(flat, columns=list(COLUMNS))
    return frame.convert_dtypes()


def _html(rows: Sequence[Row]) -> str:
    columns = [*TRIALS]
    if any(row.get("shape") for row in rows):
        columns.insert(3, SHAPE)
    if len({row.get("fingerprint") for row in rows}) > 1:
        columns.append(MACHINE)
    machines = dict.fromkeys(f"{row.get('machine')} ({row.get('fingerprint')})" for row in rows)
    notes = "".join(
        f"<li><b>{text(column)}</b>: {text(reason)} <small>{text(', '.join(where))}</small></li>"
        for column, reason, where in notes_by_reason(rows)
    )
    title = f"{rows[0]['task']}: {len(rows)} {'trial' if len(rows) == 1 else 'trials'}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title><link rel="icon" href="data:,">
<style>{style()}
body {{ font-family: system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; margin: 28px; color: #1d2429; }}
th {{ cursor: pointer; }} .scroll {{ max-height: none; }} .wbr {{ max-width: none; }}</style></head>
<body><h1>{text(title)}</h1><p>{text("; ".join(machines))}</p>
<div class="wbr">{table(columns, rows)}</div>
<details><summary>What must be known of the figures</summary><ul>{notes}</ul></details>
<script>{_SORT}</script></body></html>
"""
