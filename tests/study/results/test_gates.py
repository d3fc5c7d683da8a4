"""Conditions on the recommended row."""

from __future__ import annotations

import pytest

from workbench.core.errors import ConfigError
from workbench.study.results.gates import QualityGate, failures
from workbench.study.results.ranking import Recommendation, marked

ROW = {
    "recipe": "prune",
    "backend": "openvino",
    "engine_json": "{}",
    "speedup": 2.5,
    "quality_drop": 0.0,
    "energy": None,
    "notes": {},
}


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("speedup<3", True),
        ("speedup < 2.5", False),
        ("speedup<=2.5", True),
        ("speedup>2.5", False),
        ("speedup>=2.5", True),
        ("quality_drop>0", False),
        ("quality_drop>-1e-3", True),
    ],
)
def test_a_condition_that_holds_is_a_failure(text, fails):
    assert (QualityGate.parse(text).failure(ROW) is not None) is fails


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speedup", "COLUMN<NUMBER"),
        ("speedup=3", "COLUMN<NUMBER"),
        ("speedup<fast", "'fast' is not a number"),
        ("speedup<nan", "not a number"),
        ("speedup<inf", "not a number"),
        ("sped_up<3", "speedup"),
        ("recipe<3", "numeric column"),
        ("", "COLUMN<NUMBER"),
    ],
)
def test_what_is_no_condition_is_told(text, words):
    with pytest.raises(ConfigError, match=words):
        QualityGate.parse(text)


def test_what_was_not_measured_cannot_pass():
    row = {**ROW, "peak_rss_mib": None, "notes": {"peak_rss_mib": "no counter here"}}
    assert QualityGate.parse("peak_rss_mib>100").failure(row) == (
        "peak_rss_mib was not measured (no counter here), so peak_rss_mib>100 may hold"
    )


def test_failures_name_the_row_and_nothing_met_fails_by_itself():
    best = Recommendation(ROW, True, "why", 3)
    gates = [QualityGate.parse("speedup<3"), QualityGate.parse("quality_drop>0.1")]
    assert failures(best, gates) == ["prune on openvino: speedup is 2.5, so speedup<3 holds."]
    assert failures(Recommendation(ROW, False, "Nothing met the goal.", 3), gates) == ["Nothing met the goal."]
    assert failures(Recommendation(None, False, "Nothing.", 0), []) == []


def test_marked_rows_carry_their_answer():
    rows = [{**ROW, "recommended": False}, {**ROW, "recipe": "b", "recommended": True}]
    assert marked(rows).row["recipe"] == "b" and marked(rows).met
    assert not marked(rows[:1]).met and "no row is recommended" in marked(rows[:1]).reason
