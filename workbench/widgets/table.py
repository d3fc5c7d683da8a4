"""The trials as an HTML table: recommended row marked, states and verdicts in words."""

from __future__ import annotations

import html
from collections.abc import Sequence

from workbench.widgets.words import Row, engine_name, interval, number, point_name, state_word

_HEADS = (
    ("Recipe", ""),
    ("Engine", ""),
    ("Batch", "samples in one call"),
    ("Latency<br>ms", "median time of one batch; half of the calls lie within the ± below it"),
    ("Speed-up", "against torch eager on the original model at the same batch size, with its 95 % interval"),
    ("Verdict", "faster or slower: the interval excludes 1"),
    ("Quality", "measured on this engine; below it the change against the original model"),
    ("Memory<br>MiB", "peak of the trial's own process"),
    ("Size<br>MiB", "model file on disk"),
    ("State", ""),
)
_ORDER = {"complete": 0, "running": 1, "waiting": 2, "failed": 3, "cancelled": 4}


def table_html(rows: Sequence[Row], *, batch_size: int | None = None) -> str:
    """Return the table of ``rows``, or of those at one batch size.

    The recommended row comes first, then finished rows by latency, then the rest by state.
    """
    shown = [row for row in rows if batch_size is None or row["batch_size"] == batch_size]
    if not shown:
        where = "" if batch_size is None else f" at batch size {batch_size}"
        return f'<p class="wb-hint">No trials{where} yet.</p>'
    heads = "".join(f'<th title="{html.escape(title)}">{head}</th>' for head, title in _HEADS)
    body = "".join(_row_html(row) for row in sorted(shown, key=_sort_key))
    return f'<table class="wb-table"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _sort_key(row: Row) -> tuple[bool, int, float, str, str]:
    latency = row.get("latency_ms_p50")
    return (
        not row.get("recommended"),
        _ORDER.get(row["state"], 9),
        latency if latency is not None else float("inf"),
        str(row["recipe"]),
        str(row["backend"]),
    )


def _row_html(row: Row) -> str:
    mark = '<span class="wb-mark">★ recommended</span>' if row.get("recommended") else ""
    cells = [
        f"{html.escape(str(row['recipe']))} {mark}",
        html.escape(engine_name(row["backend"])),
        str(row["batch_size"]),
        _two(row, "latency_ms_p50", _spread(row)),
        _two(row, "speedup", interval(row.get("speedup_low"), row.get("speedup_high"), 2), suffix="×"),
        html.escape(row.get("verdict") or "–"),
        _quality(row),
        _one(row, "peak_rss_mib"),
        _one(row, "size_mib"),
        _state(row),
    ]
    kind = "wb-recommended" if row.get("recommended") else f"wb-{row['state']}"
    return f'<tr class="{kind}" title="{html.escape(point_name(row))}">{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def _one(row: Row, column: str) -> str:
    reason = (row.get("notes") or {}).get(column, "")
    if row.get(column) is None and reason:
        return f'<span title="{html.escape(str(reason))}">–</span>'
    return number(row.get(column))


def _two(row: Row, column: str, below: str, *, suffix: str = "") -> str:
    if row.get(column) is None:
        return _one(row, column)
    return f"{_one(row, column)}{suffix}" + (f"<small>{html.escape(below)}</small>" if below else "")


def _spread(row: Row) -> str:
    width = row.get("latency_ms_iqr")
    return f"± {number(width / 2, 2)}" if width is not None else ""


def _quality(row: Row) -> str:
    if row.get("quality") is None:
        return _one(row, "quality")
    drop = row.get("quality_drop")
    change = "" if drop is None else "no change" if round(drop, 4) == 0 else f"{-drop:+.4f}".replace("-", "−")
    below = f"<small>{change}</small>" if change else ""
    return f"{row['quality']:.4f}{below}"


def _state(row: Row) -> str:
    word = html.escape(state_word(row["state"]))
    if row.get("error"):
        return f"{word}<small>{html.escape(_first_line(str(row['error'])))}</small>"
    return word


def _first_line(text: str, limit: int = 140) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"
