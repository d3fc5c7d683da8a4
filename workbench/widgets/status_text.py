"""Texts of the panel: state, time, recommendation and the table of trials, as pure functions over rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from workbench.core.format.numbers import number, quality, shortened
from workbench.present import tables
from workbench.present.findings import Row, backend_name, variant_name
from workbench.study.results.ranking import Recommendation, table_order
from workbench.study.results.relative_latency import LATENCY
from workbench.study.results.schema import STATES

_STATE_WORDS = {"complete": "finished"}


def state_label(state: str) -> str:
    """Return the label of a trial's state."""
    return _STATE_WORDS.get(state, state)


def clock(seconds: float) -> str:
    """Format a duration as minutes and seconds, with hours if needed.

    Examples
    --------
    >>> clock(83.4)
    '1:23'
    """
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def count_states(rows: Iterable[Row]) -> dict[str, int]:
    """Count rows by state; every state is a key."""
    counts = dict.fromkeys(STATES, 0)
    for row in rows:
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return counts


def trials_sentence(rows: Sequence[Row]) -> str:
    """Return progress, such as ``"12 of 63 trials finished, 1 failed"``."""
    counts = count_states(rows)
    text = f"{counts['complete']} of {len(rows)} trials finished"
    extra = [f"{counts[state]} {state_label(state)}" for state in ("pruned", "failed", "cancelled") if counts[state]]
    return ", ".join([text, *extra])


def plan_sentence(recipes: int | None, engines: int, batch_sizes: int, budget_s: float) -> str:
    """Describe the planned run, such as ``"54 trials (6 recipes, 3 engines, 3 batch sizes) in about 20:00 at most."``.

    ``recipes`` is None for the default plan.
    """
    if recipes is None:
        return f"The default plan on {engines} engine{'' if engines == 1 else 's'}, in about {clock(budget_s)} at most."
    parts = [(recipes, "recipe"), (engines, "engine"), (batch_sizes, "batch size")]
    counts = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in parts)
    total = recipes * engines * batch_sizes
    return f"{total} trial{'' if total == 1 else 's'} ({counts}) in about {clock(budget_s)} at most."


def point_name(row: Row, *, threads: bool = False) -> str:
    """Return the name of a row's operating point: ``"prune on OpenVINO, batch size 32"``.

    It includes engine options and shape, and threads on request.
    """
    options = ", ".join(f"{name}={value}" for name, value in json.loads(row["engine_json"]).items())
    parts = [
        f"{variant_name(row)} on {backend_name(row['backend'])}{f' ({options})' if options else ''}",
        f"batch size {row['batch_size']}",
        str(row.get("shape") or ""),
        f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}" if threads and row.get("threads") else "",
    ]
    return ", ".join(part for part in parts if part)


def point_facts(row: Row) -> list[tuple[str, str]]:
    """Return the measurement conditions of a row's latency as (name, value) pairs without empty values."""
    floor = row.get("noise_floor")
    facts = {
        "raw latency (p50)": f"{number(row.get('latency_ms_p50'))} ms/batch" if row.get("latency_ms_p50") else None,
        "estimator": row.get("estimator"),
        "A/A noise floor": None if floor is None else f"{100 * floor:.1f} %",
        "allocator": row.get("allocator"),
        "page faults": _per_call(row, "page_faults_per_call"),
        "context switches": _per_call(row, "context_switches_per_call"),
        "conditions": row.get("conditions"),
        "fidelity": "survey: low fidelity, never recommended" if row.get("fidelity") == "survey" else None,
    }
    return [(name, str(value)) for name, value in facts.items() if value]


def _per_call(row: Row, name: str) -> str | None:
    return None if row.get(name) is None else f"{number(row[name])} per call"


def recommendation(best: Recommendation) -> tuple[str, str]:
    """Return headline and explanation of a recommendation."""
    if best.row is None:
        return "No recommendation yet.", best.reason
    row = best.row
    if not best.met:
        return "No variant meets the goal.", f"{best.reason} Closest: {point_name(row)}: {_figures(row)}."
    return f"Recommended: {point_name(row)}.", f"{_figures(row)}. {best.reason}"


def _figures(row: Row) -> str:
    parts = []
    if row.get("latency_ms_rel") is not None:
        parts.append(f"latency {number(row['latency_ms_rel'])} ms/batch")
    if row.get("throughput_per_s") is not None:
        parts.append(f"{number(row['throughput_per_s'])} samples/s")
    if row.get("quality") is not None:
        parts.append(f"quality {quality(row['quality'])}")
    if row.get("peak_rss_mib") is not None:
        parts.append(f"peak memory {number(row['peak_rss_mib'])} MiB")
    return ", ".join(parts) or "no figures"


class TimeEstimate:
    """Estimate the remaining time of a run from its completed fraction."""

    def __init__(self, started: float, budget_s: float | None) -> None:
        self._started, self._budget = started, budget_s
        self._first: float | None = None

    def sentence(self, now: float, fraction: float | None) -> str:
        """Return text such as ``"0:42 elapsed, about 1:10 left"``.

        Results reused from an earlier run do not count as speed; the budget bounds the estimate.
        """
        elapsed = now - self._started
        text = f"{clock(elapsed)} elapsed"
        if fraction is None:
            return text
        if self._first is None:
            self._first = fraction
        gained = fraction - self._first
        limit = max(0.0, self._budget - elapsed) if self._budget else float("inf")
        if gained > 0.02:
            limit = min(limit, elapsed * (1 - fraction) / gained)
        elif self._budget:
            return f"{text}, at most about {clock(limit)} left"
        return text if limit == float("inf") else f"{text}, about {clock(limit)} left"


_ORDER = {"complete": 0, "running": 1, "waiting": 2, "pruned": 3, "failed": 4, "cancelled": 5}


def _reason(row: Row) -> str:
    return shortened(str(row.get("error") or (row.get("notes") or {}).get("state") or ""), 140)


COLUMNS = (
    *(tables.RECIPE, tables.BACKEND, tables.BATCH, tables.LATENCY, tables.SPEEDUP, tables.VERDICT, tables.QUALITY),
    *(tables.DROP, tables.MEMORY, tables.SIZE, dataclasses.replace(tables.STATE, detail=_reason)),
)


def table_html(rows: Sequence[Row], *, batch_size: int | None = None) -> str:
    """Return the HTML table of ``rows``, or of those at one batch size.

    The recommended row comes first, then finished rows by latency, then the rest by state.
    """
    shown = [row for row in rows if batch_size is None or row["batch_size"] == batch_size]
    at = "" if batch_size is None else f" at batch size {batch_size}"
    columns = tables.with_threads(COLUMNS, shown)
    return tables.table(columns, sorted(table_order(shown, LATENCY), key=_sort_key), empty=f"No trials{at} yet.")


def _sort_key(row: Row) -> tuple[bool, int]:
    return not row.get("recommended"), _ORDER.get(row["state"], len(_ORDER))
