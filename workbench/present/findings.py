"""Figures and findings in words: what a reader takes away without reading a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.speedup import row_speedup
from workbench.present import style
from workbench.study.results.break_even import break_even
from workbench.study.results.ranking import Recommendation

Row = Mapping[str, Any]


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with ``digits`` significant digits, whole above 1000; a dash where there is none.

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


def signed(value: float | None, digits: int = 3) -> str:
    """Return a change with its sign."""
    if value is None or value != value:
        return "–"
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def quality(value: float | None) -> str:
    """Return a figure in the metric's units: four decimals, two where it is large."""
    if value is None or value != value:
        return "–"
    return f"{value:.{2 if abs(value) >= 100 else 4}f}".replace("-", "−")


def drop(value: float | None) -> str:
    """Return a loss of quality with its sign; a gain is negative."""
    return f"+{quality(value)}" if value is not None and value > 0 else quality(value)


def quality_interval(low: float | None, high: float | None) -> str:
    """Return the interval of a quality drop, or an empty text where there is none or it is the baseline's own."""
    return "" if low is None or high is None or low == high == 0 else f"{quality(low)} to {quality(high)}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return ``"3.9 to 4.4"``, or an empty text where there is no interval."""
    return "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def count(value: float | None) -> str:
    """Return a large count in thousands or millions: ``"1.25 M"``."""
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.0f}"


def engine_name(backend: str) -> str:
    """Return the name a person knows a backend by."""
    return style.backend(backend).word


def variant_name(row: Row) -> str:
    """Return the name of a row's variant: its recipe, with the label of a reference row or of a survey."""
    if row.get("reference"):
        return f"{row['recipe']}, {row['reference']}"
    return f"{row['recipe']} (survey)" if row.get("fidelity") == "survey" else str(row["recipe"])


def headline(best: Recommendation) -> str:
    """Return the answer of a study in one sentence."""
    row = best.row
    if row is None:
        return "There is no recommendation: no trial has finished. Run again to continue, or raise budget_s."
    name = f"{row['recipe']} on {engine_name(row['backend'])}"
    if not best.met:
        return f"Nothing met the goal. The nearest miss is {name}."
    if row["baseline"]:
        where = engine_name(row["backend"])
        return f"Keep the baseline in {where}: no variant within the quality limit has a lower latency."
    return f"Take {name}: {row_speedup(row)}, {quality_words(row)}."


def share(value: float | None) -> str:
    """Return a share in per cent: all of it is ``"100"``, and nothing less is.

    Examples
    --------
    >>> share(1.0), share(0.99996), share(0.975)
    ('100', '99.99', '97.50')
    """
    if value is None or value != value:
        return "–"
    return "100" if value == 1 else f"{math.floor(1e4 * value) / 100:.2f}"


def quality_words(row: Row) -> str:
    """Return a row's quality drop or gain in the metric's units, with its quality."""
    lost = row.get("quality_drop")
    if lost is None:
        return "quality not measured"
    if abs(lost) < 5e-5:
        return f"same quality ({quality(row['quality'])})"
    return f"quality {'drop' if lost > 0 else 'gain'} {quality(abs(lost))} (to {quality(row['quality'])})"


def first_answer_ms(row: Row) -> float | None:
    """Return how long a fresh process waits for its first answer: loading, compiling and the first call together.

    Examples
    --------
    >>> first_answer_ms({"load_ms": 4.0, "compile_ms": 36.0, "first_call_ms": 0.5})
    40.5
    """
    load, first = row.get("load_ms"), row.get("first_call_ms")
    return None if load is None or first is None else float(load + (row.get("compile_ms") or 0.0) + first)


def break_even_words(row: Row) -> str:
    """Return the break-even of a variant in samples; empty if there is none."""
    found = break_even(row)
    if found is None:
        return ""
    return (
        f"Break-even after {count(found.samples)} samples: {number(found.spent_s)} s to build, "
        f"{number(found.saved_ms)} ms saved per batch of {row['batch_size']}."
    )


def caveats(best: Recommendation, rows: Sequence[Row]) -> list[str]:
    """Return the caveats of a recommendation beyond its reason, one sentence each."""
    row = best.row
    if row is None:
        return []
    found = []
    tried = row.get("candidates") or best.candidates
    if tried and tried > 1:
        found.append(
            f"{tried} combinations of recipe and backend were evaluated on the same samples. The quality of the best "
            "one is therefore slightly optimistic."
        )
    low, high = row.get("speedup_low"), row.get("speedup_high")
    if row.get("verdict") == "undecided" and low is not None and high is not None and low <= 1 <= high:
        found.append("The 95 % CI of the speedup contains 1. Measure longer before you rely on it.")
    open_rows = sum(r["state"] not in ("complete", "pruned", "failed") for r in rows)
    if open_rows:
        found.append(f"{open_rows} of {len(rows)} planned trials were not run: see the notes.")
    return found


def cuts_by_reason(cuts: Sequence[str]) -> list[str]:
    """Return what was cut with each reason told once: ``"the reason: this; that"``.

    Examples
    --------
    >>> cuts_by_reason(["no time: a at batch 1", "no time: b at batch 1", "else"])
    ['no time: a at batch 1; b at batch 1', 'else']
    """
    found: dict[str, list[str]] = {}
    for cut in cuts:
        reason, _, what = cut.partition(": ")
        found.setdefault(reason, []).append(what)
    return [f"{reason}: {'; '.join(what)}" if any(what) else reason for reason, what in found.items()]


def notes_by_reason(rows: Sequence[Row]) -> list[tuple[str, str, list[str]]]:
    """Return (column, reason, trials) for every note and error of the rows, equal ones together."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        where = f"{variant_name(row)} on {engine_name(row['backend'])}, batch {row['batch_size']}"
        where += f", {row['shape']}" if row.get("shape") else ""
        if row.get("error"):
            found.setdefault((row["state"], first_line(str(row["error"]))), []).append(where)
        for column, reason in (row.get("notes") or {}).items():
            found.setdefault((column, str(reason)), []).append(where)
    return [(column, reason, where) for (column, reason), where in found.items()]


def some(names: Sequence[str], limit: int = 4) -> str:
    """Return a list in words, cut after ``limit``.

    Examples
    --------
    >>> some(["a", "b", "c"], limit=2)
    'a; b; and 1 more'
    """
    shown = "; ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}; and {len(names) - limit} more"


def first_line(words: str, limit: int = 300) -> str:
    """Return the first line that says something, cut at ``limit`` characters."""
    line = next((line.strip() for line in words.splitlines() if line.strip()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"
