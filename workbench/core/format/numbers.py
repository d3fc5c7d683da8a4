"""Numbers and counts as text, and tables of plain text."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` significant digits, whole from 1000 on; a dash for None and NaN."""
    if value is None or value != value:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}".replace("-", "−")
    written = f"{value:#.{digits}g}" if abs(value) >= 1e-4 else f"{value:.{digits - 1}e}"
    return written.rstrip(".").replace("-", "−")


def short(value: float) -> str:
    """Return a number with three significant digits, without trailing zeros, whole from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count(value: float | None) -> str:
    """Return a large count in thousands, millions or billions (``1.25 M``); a dash for None."""
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def plural(count: int, word: str) -> str:
    """Return a count with its word: ``1 recipe``, ``3 recipes``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def signed(value: float | None, digits: int = 3) -> str:
    """Return a change with its sign."""
    return f"+{number(value, digits)}" if value is not None and value > 0 else number(value, digits)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return an interval such as ``"3.90 to 4.40"``; empty if there is none."""
    return "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def quality(value: float | None) -> str:
    """Return a figure in the metric's units: four decimals, two from 100 on."""
    if value is None or value != value:
        return "–"
    return f"{value:.{2 if abs(value) >= 100 else 4}f}".replace("-", "−")


def drop(value: float | None) -> str:
    """Return a quality drop with its sign; a gain is negative."""
    return f"+{quality(value)}" if value is not None and value > 0 else quality(value)


def quality_interval(low: float | None, high: float | None) -> str:
    """Return the interval of a quality drop; empty if there is none or it is the baseline's."""
    return "" if low is None or high is None or low == high == 0 else f"{quality(low)} to {quality(high)}"


def percent(share: float | None) -> str:
    """Return a share in percent; only 1 is ``"100"``."""
    if share is None or share != share:
        return "–"
    return "100" if share == 1 else f"{math.floor(1e4 * share) / 100:.2f}"


def shortened(text: str, limit: int = 300) -> str:
    """Return the first line that is not empty, cut at ``limit`` characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def listed(names: Sequence[str], limit: int = 4) -> str:
    """Return a list as text, cut after ``limit`` names: ``a; b; and 1 more``."""
    shown = "; ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}; and {len(names) - limit} more"


def cut_middle(text: str, limit: int) -> str:
    """Return a text with its middle cut out if it is longer than ``limit``."""
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def text_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = (), rule: bool = False,
    widest: int | None = None,
) -> list[str]:  # fmt: skip
    """Return the lines of a table in plain text.

    Columns ``right`` are aligned to the right, ``rule`` adds a line below the heads, and cells are cut at ``widest``.

    Examples
    --------
    >>> text_table(("layer", "ms"), [("conv", "1.5")], right=(1,), rule=True)
    ['layer   ms', '-----  ---', 'conv   1.5']
    """
    lines = [list(heads), *([cut_middle(cell, widest or len(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if rule:
        lines.insert(1, ["-" * width for width in widths])
    padded = (
        (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
    return ["  ".join(cells).rstrip() for cells in padded]
