"""Texts of the panel: state, time, recommendation and the table of trials, as pure functions over rows."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

from workbench.core.format.numbers import number, plural, quality, shortened
from workbench.present import tables
from workbench.present.findings import Row, backend_name, variant_name
from workbench.study.results.ranking import Recommendation, table_order
from workbench.study.results.relative_latency import LATENCY


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


def trials_sentence(rows: Sequence[Row]) -> str:
    """Return progress, such as ``"12 of 63 trials finished, 1 failed"``."""
    counts = Counter(row["state"] for row in rows)
    text = f"{counts['complete']} of {len(rows)} trials finished"
    extra = [f"{counts[state]} {state}" for state in ("pruned", "failed", "cancelled") if counts[state]]
    return ", ".join([text, *extra])


def plan_sentence(recipes: int | None, engines: int, batch_sizes: int, budget_s: float) -> str:
    """Describe the planned run, such as ``"54 trials (6 recipes, 3 engines, 3 batch sizes) in about 20:00 at most."``.

    ``recipes`` is None for the default plan.
    """
    if recipes is None:
        return f"The default plan on {plural(engines, 'engine')}, in about {clock(budget_s)} at most."
    trials = plural(recipes * engines * batch_sizes, "trial")
    counts = f"{plural(recipes, 'recipe')}, {plural(engines, 'engine')}, {plural(batch_sizes, 'batch size')}"
    return f"{trials} ({counts}) in about {clock(budget_s)} at most."


def point_name(row: Row, *, threads: bool = False) -> str:
    """Return the name of a row's operating point: ``"prune on OpenVINO, batch size 32"``.

    It includes engine options and shape, and threads on request.
    """
    options = ", ".join(f"{name}={value}" for name, value in json.loads(row["engine_json"]).items())
    parts = [
        f"{variant_name(row)} on {backend_name(row['backend'])}{f' ({options})' if options else ''}",
        f"batch size {row['batch_size']}",
        str(row.get("shape") or ""),
        plural(row["threads"], "thread") if threads and row.get("threads") else "",
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
    texts = {
        "latency_ms_rel": f"latency {number(row.get('latency_ms_rel'))} ms/batch",
        "throughput_per_s": f"{number(row.get('throughput_per_s'))} samples/s",
        "quality": f"quality {quality(row.get('quality'))}",
        "peak_rss_mib": f"peak memory {number(row.get('peak_rss_mib'))} MiB",
    }
    return ", ".join(text for name, text in texts.items() if row.get(name) is not None) or "no figures"


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


_STATES = ("complete", "running", "waiting", "pruned", "failed", "cancelled")


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
    order = {state: place for place, state in enumerate(_STATES)}
    shown = sorted(table_order(shown, LATENCY), key=lambda r: (not r.get("recommended"), order.get(r["state"], 9)))
    return tables.table(tables.with_threads(COLUMNS, shown), shown, empty=f"No trials{at} yet.")
