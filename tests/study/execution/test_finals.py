"""Ranks of finalists from blocks of known pace, and finals held by a real study."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.study.execution.finals import leading, other_threads, standings
from workbench.study.plan.trials import Trial
from workbench.study.results.schema import new_row
from workbench.timing.blocks import Block


def planned(name: str, **changes) -> Trial:
    values = {
        "key": name,
        "recipe": wb.Recipe(),
        "name": name,
        "backend": "onnxruntime",
        "batch_size": 32,
        "threads": 2,
        "artifact_key": f"artifact-{name}",
        "baseline": False,
    }
    return Trial(**{**values, **changes})


def blocks(ms: float, seed: int, spread: float = 0.005) -> list[Block]:
    rng = np.random.default_rng(seed)
    return [Block.of(ms * rng.lognormal(0.0, spread, 10)) for _ in range(12)]


def row(trial: Trial, speedup: float, *, drop: float | None = 0.0, wide: float = 1.02, **changes):
    base = {"baseline": trial.baseline, "latency_ms_p50": 20.0 / speedup, "speedup": speedup}
    interval = {"speedup_low": speedup / wide, "speedup_high": speedup * wide}
    known = {**base, **interval, "baseline_key": "base", "trial_key": trial.key, "state": "complete"}
    return new_row(**{**known, "quality_drop": drop, "batch_size": 32, "fingerprint": "f", **changes})


BASE = planned("base", backend="torch-eager", baseline=True)


def names(*entries: tuple[Trial, dict], limit: float = 0.01) -> list[str]:
    items = [(BASE, row(BASE, 1.0)), *entries]
    return [trial.name for trial in leading(items, limit)]


def test_finalists_are_the_fastest_and_those_whose_interval_reaches_it():
    a, b, c = planned("a"), planned("b"), planned("c")
    assert names((a, row(a, 4.0, wide=1.1)), (b, row(b, 3.8, wide=1.1)), (c, row(c, 2.0))) == ["a", "b"]
    assert names((a, row(a, 4.0)), (b, row(b, 3.0))) == ["a"]
    assert names((a, row(a, 0.5))) == ["base"]


def test_at_most_three_are_finalists_and_none_outside_the_limit_or_unranked():
    many = [planned(name) for name in "abcd"]
    entries = [(trial, row(trial, 4.0 + i / 100, wide=1.2)) for i, trial in enumerate(many)]
    assert len(names(*entries)) == 3
    a, b, c, d = many
    assert names(
        (a, row(a, 9.0, drop=0.02)),
        (b, row(b, 9.0, reference="as commonly started")),
        (c, row(c, 9.0, fidelity="survey")),
        (d, row(d, 2.0)),
    ) == ["d"]
    assert names((a, row(a, 9.0, drop=None)), (b, row(b, 9.0, state="failed")), (d, row(d, 2.0))) == ["d"]


def test_the_faster_one_is_first_whatever_its_size():
    fast, slow = planned("fast"), planned("slow")
    found = standings({slow: blocks(5.5, 0), fast: blocks(5.0, 1)}, {fast: 9.0, slow: 1.0}, 0.01)
    assert [(one.trial.name, one.rank, one.tied) for one in found] == [("fast", 1, True), ("slow", 2, False)]
    assert found[0].ratio is None
    assert found[1].ratio.ratio == pytest.approx(1.1, abs=0.01)
    assert "fast" in found[1].note("fast on onnxruntime")


def test_of_those_not_told_apart_the_smaller_one_is_first():
    large, small, slow = planned("large"), planned("small"), planned("slow")
    timed = {large: blocks(5.0, 0), small: blocks(5.02, 1), slow: blocks(6.0, 2)}
    found = standings(timed, {large: 4.0, small: 1.0, slow: 0.5}, 0.02)
    assert [one.trial.name for one in found] == ["small", "large", "slow"]
    assert [one.tied for one in found] == [True, True, False]


def test_of_those_not_told_apart_one_within_the_limit_by_its_whole_interval_is_first():
    large, small = planned("large"), planned("small")
    timed = {large: blocks(5.0, 0), small: blocks(5.02, 1)}
    ranks = standings(timed, {large: 4.0, small: 1.0}, 0.02, unsure={small})
    assert [one.trial.name for one in ranks] == ["large", "small"]
    ranks = standings(timed, {large: 4.0, small: 1.0}, 0.02, unsure={small, large})
    assert [one.trial.name for one in ranks] == ["small", "large"]


def test_an_unknown_size_counts_as_the_largest():
    known, unknown = planned("known"), planned("unknown")
    found = standings({unknown: blocks(5.0, 0), known: blocks(5.0, 1)}, {unknown: None, known: 50.0}, 0.02)
    assert found[0].trial is known


def test_the_other_thread_count_is_the_one_not_chosen():
    assert other_threads(BASE, 2).threads == 1
    single = planned("base", backend="torch-eager", threads=1, baseline=True)
    assert other_threads(single, 4).threads == 4
    assert other_threads(single, 1) is None
    assert other_threads(planned("base", baseline=True), 2) is None  # another runtime as the baseline
    assert not other_threads(BASE, 2).baseline
