"""The page of the harness's cost: what is subtracted, and when it fails."""

from __future__ import annotations

import pytest

from benchmarks.harness import BACKENDS, BATCHES, page, recipes


def found(**changes):
    first = {"wall_s": 100.0, "covered_s": 80.0, "finished": 48, "phases_s": {"train": 30.0, "timed": 60.0}}
    resumed = {"wall_s": 0.9, "run_s": 0.1, "finished": 0, "reused": 48}
    plan = {"wall_s": 180.0, "covered_s": 168.0, "finished": 20}
    answer = {"first": first, "resumed": resumed, "plan": plan, "shell": {"wall_s": 1.0}}
    for name, value in changes.items():
        part, _, key = name.partition("__")
        answer[part][key] = value
    return answer


def test_the_grid_has_48_trials_and_different_recipes():
    assert len(recipes()) * len(BACKENDS) * len(BATCHES) == 48 and len(set(recipes())) == 8


def test_the_share_is_of_the_whole_time_and_overlaps_count_once():
    text, right = page(found())
    assert right and "| **harness** (the rest) | **20.0** | **20.0%** |" in text
    assert "Limit 25%: held. Aim 10%: missed." in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"first__covered_s": 74.0},
        {"first__finished": 47},
        {"resumed__reused": 47},
        {"resumed__finished": 1},
        {"plan__covered_s": 160.0},
    ],
)
def test_it_fails_where_anything_is_not_as_it_must_be(wrong):
    text, right = page(found(**wrong))
    assert not right
    assert ("MISSED" in text) == bool({"first__covered_s", "plan__covered_s"} & set(wrong))
