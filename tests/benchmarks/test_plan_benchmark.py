"""The page of the plan's benchmark: what it claims, and when a claim does not hold."""

from __future__ import annotations

import json

import pytest

import workbench as wb
from benchmarks import plan


def winner(contestant, recipe="depth", **changes):
    known = {
        "contestant": contestant, "recipe": recipe, "backend": "openvino", "batch_size": 32, "threads": 2,
        "artifact": "a", "speedup": 6.0, "drop": 0.004, "met": True, "seconds": 199.0, "trials": 20,
    }  # fmt: skip
    return plan.Winner(**{**known, **changes})


def winners(**changes):
    return {"cifar": {name: winner(name, **changes) for name in plan.CONTESTANTS}}


@pytest.mark.parametrize(
    ("ratio", "verdict", "met", "right"),
    [
        (1.4, "faster", True, [True, True]),
        (1.2, "faster", True, [True, False]),
        (1.4, "faster", False, [True, False]),
        (0.9, "slower", True, [False, False]),
    ],
)
def test_a_claim_goes_by_the_verdict_and_the_goal(ratio, verdict, met, right):
    duels = [plan.Duel("cifar", "int8 alone", ratio, ratio - 0.05, ratio + 0.05, verdict)]
    assert [good for _, good in plan.holds(winners(met=met), duels)] == right
    text = plan.page(winners(met=met), duels, {"cifar": 1200.0})
    assert text.count("- holds:") == sum(right) and text.count("DOES NOT HOLD") == 2 - sum(right)
    assert f"{ratio:.2f}x | {ratio - 0.05:.2f}-{ratio + 0.05:.2f} | {verdict} |" in text


def test_the_contestants_are_int8_the_old_list_and_the_default_plan():
    names = {one: plan.recipes_of(one, 200.0) for one in plan.CONTESTANTS}
    assert [recipe.label for recipe in names["int8 alone"]] == ["float", "int8"]
    assert names["fixed list"] == wb.study.default_recipes(200.0) and names["default plan"] is None


def test_a_contestant_that_is_done_is_read(tmp_path):
    kept = winner("int8 alone", "quantize")
    place = tmp_path / "int8-alone"
    place.mkdir()
    (place / "winner.json").write_text(json.dumps(kept.__dict__))
    assert plan.run("digits", "int8 alone", 200.0, tmp_path) == kept


def test_int8_alone_is_not_timed_against_itself():
    ours, theirs = winner("default plan", "quantize"), winner("int8 alone", "quantize")
    assert plan.duel("digits", ours, theirs).verdict == "same"
