"""Parse the log of an MLPerf LoadGen test: summary, figures, errors, and the latency of every query."""

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
    ("result_perf_constraints_met", "the latency bound was exceeded"),
    ("result_min_duration_met", "the test ended before the minimum duration"),
    ("result_min_queries_met", "the test ended before the minimum number of queries"),
)


@dataclass(frozen=True)
class LoadGenLog:
    """The log of one test.

    Attributes
    ----------
    summary : str
        The text of ``mlperf_log_summary.txt``.
    detail : mapping
        The keys of ``mlperf_log_detail.txt``, such as ``result_90.00_percentile_latency_ns``, with their last values.
    errors : tuple of str
        The errors that LoadGen logged.
    samples : int
        Number of completed samples.
    latencies_ms : array [queries]
        ms from the scheduled issue of a query until its last sample was complete, in the order of issue.
    """

    summary: str
    detail: Mapping[str, Any] = field(repr=False)
    errors: tuple[str, ...]
    samples: int
    latencies_ms: Samples = field(repr=False, compare=False)

    @property
    def valid(self) -> bool:
        """True if LoadGen judged the test as VALID."""
        result = _RESULT.search(self.summary)
        return result is not None and result[1] == "VALID" and self.detail.get("result_validity") == "VALID"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons for INVALID, one sentence each; empty for a valid test."""
        if self.valid:
            return ()
        reasons = [text for key, text in _CHECKS if self.detail.get(key) is False]
        if self.detail.get("early_stopping_met") is False:
            reasons.append(f"too few queries for early stopping: {_plain(self.detail.get('early_stopping_result'))}")
        invalid = _plain(self.detail.get("result_invalid_reason"))
        return (*reasons, *self.errors, *([f"LoadGen: {invalid}"] if invalid else []))

    def ms(self, key: str) -> float:
        """Return a figure in ns as ms."""
        return float(self.detail[key]) / 1e6


def read_log(folder: Path) -> LoadGenLog:
    """Read the log files in ``folder``.

    Raises
    ------
    EngineError
        If a file or the result is missing because the test did not finish.
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
    entries = []
    for line in text.splitlines():
        if line.startswith(_DETAIL):
            try:
                entries.append(json.loads(line.removeprefix(_DETAIL)))
            except ValueError:  # LoadGen does not escape: a quote in a machine's name breaks its line
                continue
    return entries


def _latencies(folder: Path) -> tuple[int, Samples]:
    """Return the number of samples, and ms per query in the order of issue; the last sample completes a query."""
    queries: dict[int, int] = {}
    samples = 0
    with open(folder / f"{PREFIX}trace.json", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            sample = _SAMPLE.search(line)
            if sample is not None:
                samples, query, ns = samples + 1, int(sample[1]), int(sample[2])
                queries[query] = max(ns, queries.get(query, ns))
    return samples, np.array([queries[query] for query in sorted(queries)], dtype=np.float64) / 1e6


def _plain(text: Any) -> str:
    """Return LoadGen's text in one line, without its bullets."""
    return " ".join(part for part in str(text or "").split() if part != "*")
