"""Numbers and counts as text: one form for reports, tables, charts, logs and terminals."""

from __future__ import annotations


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with ``digits`` significant digits, whole from 1000 on; a dash for None and NaN.

    Examples
    --------
    >>> number(0.012345), number(8.0), number(12345.6), number(None)
    ('0.0123', '8.00', '12,346', '–')
    """
    if value is None or value != value:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}".replace("-", "−")
    written = f"{value:#.{digits}g}" if abs(value) >= 1e-4 else f"{value:.{digits - 1}e}"
    return written.rstrip(".").replace("-", "−")


def short(value: float) -> str:
    """Return a number with three significant digits, without trailing zeros, whole from 100 on.

    Examples
    --------
    >>> short(2222.2), short(0.12345), short(8.0)
    ('2,222', '0.123', '8')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count(value: float | None) -> str:
    """Return a large count in thousands, millions or billions; a dash for None.

    Examples
    --------
    >>> count(1_250_000), count(12), count(None)
    ('1.25 M', '12', '–')
    """
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def plural(count: int, word: str) -> str:
    """Return a count with its word.

    Examples
    --------
    >>> plural(1, "recipe"), plural(3, "recipe")
    ('1 recipe', '3 recipes')
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
