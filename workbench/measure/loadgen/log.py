"""What MLPerf LoadGen wrote of one test: its summary, its figures, its errors, and the latency of every query."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import EngineError
from workbench.timing.blocks import Samples

PREFIX = "mlperf_log_"
_DETAIL = ":::MLLOG "
_SAMPLE = re.compile(r'"name":\s*"Sample".*"query_seq":\s*(\d+).*"complete_ns":\s*(-?\d+)')
_RESULT = re.compile(r"^Result is : (\w+)", re.MULTILINE)
_CHECKS = (
    ("result_perf_constraints_met", "the latency bound was not kept"),
    ("result_min_duration_met", "it ended before the duration that was asked for"),
    ("result_min_queries_met", "it ended before enough queries were issued"),
)


@dataclass(frozen=True)
class LoadGenLog:
    """One test as LoadGen logged it.

    Attributes
    ----------
    summary : str
        The text of ``mlperf_log_summary.txt``.
    detail : mapping
        Every key of ``mlperf_log_detail.txt`` with its value, such as ``result_90.00_percentile_latency_ns``; the last
        one where a key comes twice.
    errors : tuple of str
        What LoadGen logged as an error.
    samples : int
        How many were answered.
    latencies_ms : array [queries]
        ms from when a query was due to be issued until its last sample was complete, in the order of issue.
    """

    summary: str
    detail: Mapping[str, Any] = field(repr=False)
    errors: tuple[str, ...]
    samples: int
    latencies_ms: Samples = field(repr=False, compare=False)

    @property
    def valid(self) -> bool:
        """Whether LoadGen calls the test valid."""
        found = _RESULT.search(self.summary)
        return found is not None and found[1] == "VALID" and self.detail.get("result_validity") == "VALID"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why LoadGen does not call the test valid, a sentence each; empty where it does."""
        if self.valid:
            return ()
        found = [words for key, words in _CHECKS if self.detail.get(key) is False]
        if self.detail.get("early_stopping_met") is False:
            found.append(f"too few queries for its early stopping: {_plain(self.detail.get('early_stopping_result'))}")
        said = _plain(self.detail.get("result_invalid_reason"))
        return (*found, *self.errors, *([f"LoadGen says: {said}"] if said else []))

    def ms(self, key: str) -> float:
        """Return one of the figures in ns as ms."""
        return float(self.detail[key]) / 1e6


def read_log(folder: Path) -> LoadGenLog:
    """Return what LoadGen wrote into ``folder``.

    Raises
    ------
    EngineError
        If a file or the result is missing: the test did not come to its end.
    """
    detail: dict[str, Any] = {}
    errors = []
    for entry in _entries(_text(folder, "detail.txt")):
        detail[entry["key"]] = entry["value"]
        if entry.get("metadata", {}).get("is_error"):
            errors.append(_plain(entry["value"]))
    if "result_validity" not in detail:
        raise EngineError(f"LoadGen wrote no result into {folder}. {' '.join(errors)}".rstrip())
    return LoadGenLog(_text(folder, "summary.txt"), detail, tuple(errors), *_latencies(folder))


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / f"{PREFIX}{name}").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise EngineError(f"LoadGen's log {PREFIX}{name} cannot be read: {error.strerror} ({folder}).") from error


def _entries(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        if line.startswith(_DETAIL):
            try:
                found.append(json.loads(line.removeprefix(_DETAIL)))
            except ValueError:  # LoadGen escapes nothing: a quote in a machine's name breaks the line that holds it
                continue
    return found


def _latencies(folder: Path) -> tuple[int, Samples]:
    """Return the number of samples, and ms per query in the order of issue; a query lasts as long as its last one."""
    queries: dict[int, int] = {}
    samples = 0
    with open(folder / f"{PREFIX}trace.json", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            sample = _SAMPLE.search(line)
            if sample is not None:
                samples, query, ns = samples + 1, int(sample[1]), int(sample[2])
                queries[query] = max(ns, queries.get(query, ns))
    return samples, np.array([queries[query] for query in sorted(queries)], dtype=np.float64) / 1e6


def _plain(words: Any) -> str:
    """Return LoadGen's words in one line, without its bullets."""
    return " ".join(part for part in str(words or "").split() if part != "*")
