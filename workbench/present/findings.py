"""Sentences about a study's rows: headline, caveats, break-even, notes by reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.format.numbers import count, number, quality, shortened
from workbench.core.format.speedup import row_speedup
from workbench.present import style
from workbench.study.results.ranking import Recommendation
from workbench.study.results.relative_latency import break_even

Row = Mapping[str, Any]


def backend_name(backend: str) -> str:
    """Return the display name of a backend."""
    return style.backend(backend).word


def variant_name(row: Row) -> str:
    """Return the recipe of a row, with the label of a reference row or of a survey."""
    if row.get("reference"):
        return f"{row['recipe']}, {row['reference']}"
    return f"{row['recipe']} (survey)" if row.get("fidelity") == "survey" else str(row["recipe"])


def headline(best: Recommendation) -> str:
    """Return the recommendation of a study in one sentence."""
    row = best.row
    if row is None:
        return "No recommendation: no trial has finished. Run again to continue, or raise budget_s."
    backend = backend_name(row["backend"])
    if not best.met:
        return f"Nothing met the goal. The closest miss is {row['recipe']} on {backend}."
    if row["baseline"]:
        return f"Keep the baseline on {backend}: no variant within the limit on the quality drop has a lower latency."
    return f"Take {row['recipe']} on {backend}: {row_speedup(row)}, {quality_change(row)}."


def quality_change(row: Row) -> str:
    """Return a row's quality drop or gain in the metric's units, with its quality."""
    lost = row.get("quality_drop")
    if lost is None:
        return "quality not measured"
    if abs(lost) < 5e-5:
        return f"same quality ({quality(row['quality'])})"
    return f"quality {'drop' if lost > 0 else 'gain'} {quality(abs(lost))} (to {quality(row['quality'])})"


def cold_start_ms(row: Row) -> float | None:
    """Return the time to the first answer of a fresh process: load, compile and first call.

    Examples
    --------
    >>> cold_start_ms({"load_ms": 4.0, "compile_ms": 36.0, "first_call_ms": 0.5})
    40.5
    """
    load, first = row.get("load_ms"), row.get("first_call_ms")
    return None if load is None or first is None else float(load + (row.get("compile_ms") or 0.0) + first)


def break_even_text(row: Row) -> str:
    """Return the break-even of a variant in samples; empty if there is none."""
    result = break_even(row)
    if result is None:
        return ""
    return (
        f"Break-even after {count(result.samples)} samples: {number(result.spent_s)} s to build, "
        f"{number(result.saved_ms)} ms saved per batch of {row['batch_size']}."
    )


def caveats(best: Recommendation, rows: Sequence[Row]) -> list[str]:
    """Return the caveats of a recommendation beyond its reason, one sentence each."""
    row = best.row
    if row is None:
        return []
    sentences = []
    candidates = row.get("candidates") or best.candidates
    if candidates and candidates > 1:
        sentences.append(
            f"{candidates} combinations of recipe and backend were evaluated on the same samples. The quality of the "
            "best one is therefore slightly optimistic."
        )
    low, high = row.get("speedup_low"), row.get("speedup_high")
    if row.get("verdict") == "undecided" and low is not None and high is not None and low <= 1 <= high:
        sentences.append("The 95 % CI of the speedup contains 1. Measure longer before you rely on it.")
    open_rows = sum(r["state"] not in ("complete", "pruned", "failed") for r in rows)
    if open_rows:
        sentences.append(f"{open_rows} of {len(rows)} planned trials were not run: see the notes.")
    return sentences


def cuts_by_reason(cuts: Sequence[str]) -> list[str]:
    """Return skipped trials grouped by reason: ``"the reason: this; that"``.

    Examples
    --------
    >>> cuts_by_reason(["no time: a at batch 1", "no time: b at batch 1", "else"])
    ['no time: a at batch 1; b at batch 1', 'else']
    """
    groups: dict[str, list[str]] = {}
    for cut in cuts:
        reason, _, trial = cut.partition(": ")
        groups.setdefault(reason, []).append(trial)
    return [f"{reason}: {'; '.join(trials)}" if any(trials) else reason for reason, trials in groups.items()]


def notes_by_reason(rows: Sequence[Row]) -> list[tuple[str, str, list[str]]]:
    """Return (column, reason, trials) for every note and error of the rows, equal ones together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        trial = f"{variant_name(row)} on {backend_name(row['backend'])}, batch {row['batch_size']}"
        trial += f", {row['shape']}" if row.get("shape") else ""
        if row.get("error"):
            groups.setdefault((row["state"], shortened(str(row["error"]))), []).append(trial)
        for column, reason in (row.get("notes") or {}).items():
            groups.setdefault((column, str(reason)), []).append(trial)
    return [(column, reason, trials) for (column, reason), trials in groups.items()]
