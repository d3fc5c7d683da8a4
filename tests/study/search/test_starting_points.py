"""Where a search starts, from tables whose answer is known."""

from __future__ import annotations

import types

import pytest

import workbench as wb
from workbench.compress.sensitivity import Cell, Sensitivity
from workbench.core.errors import ConfigError
from workbench.study.search.starting_points import first_settings, starting_points

TASK = types.SimpleNamespace(name="t")


def table(technique="prune", losses=((0.25, 0.001), (0.5, 0.004), (0.75, 0.02)), *, measure="quality", task="t"):
    step = {"prune": wb.Prune(), "factorize": wb.Factorize(), "quantize": wb.Quantize()}[technique]
    cells = [
        Cell(layer, "Conv2d", (layer,), setting, 0.9 - loss, 0.9, 0.9, 0.9)
        for layer in ("a", "b")
        for setting, loss in losses
    ]
    none = Cell("c", "Conv2d", ("c",), losses[0][0], None, 1.0, 1.0, 1.0, "too narrow")
    return Sensitivity(task, technique, measure, 0.9, step, ("a", "b", "c"), (*cells, none))


SPACE = wb.Space(wb.maybe(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.6))), backends=("onnxruntime", "openvino"))


def test_the_hardest_setting_within_the_goal_and_the_next_one():
    assert first_settings(table(), drop=0.01, larger_removes_more=True) == [0.5, 0.75]  # two layers lose 0.008 together
    assert first_settings(table(), drop=0.005, larger_removes_more=True) == [0.25, 0.5]
    assert first_settings(table(), drop=0.0, larger_removes_more=True) == [0.25, 0.5]  # none holds it: the mildest
    assert first_settings(table(), drop=1.0, larger_removes_more=True) == [0.75]
    ranks = table("factorize", ((0.75, 0.001), (0.5, 0.004), (0.25, 0.02)))
    assert first_settings(ranks, drop=0.01, larger_removes_more=False) == [0.5, 0.25]  # a smaller rank takes more away


def test_points_lead_to_the_option_through_what_may_be_left_out_and_stay_in_the_range():
    assert starting_points(table(), SPACE, drop=0.01, task=TASK) == [
        {"Prune?": True, "Prune.ratio": 0.5}, {"Prune?": True, "Prune.ratio": 0.6}
    ]  # fmt: skip
    space = wb.Space(wb.choice(None, wb.vary(wb.Prune, ratio=wb.choice(0.2, 0.4))), backends="openvino")
    (only,) = starting_points([table()], space, drop=0.01, task=TASK)
    assert only == {"nothing or Prune": "Prune", "Prune.ratio": 0.4} or only["Prune.ratio"] == 0.4
    assert starting_points(None, SPACE, drop=0.01, task=TASK) == []


def test_a_search_begins_with_them_and_the_sampler_fills_in_the_rest(search_run):
    first = starting_points(table(), SPACE, drop=0.01, task=TASK)
    space = wb.Space(*(node.part for node in SPACE.template), backends=SPACE.backends, batch_sizes=8)
    _, _, tried, _ = search_run(space, trials=3, start=first)
    assert [one.params["Prune.ratio"] for one in tried[:2]] == [0.5, 0.6]
    assert {one.params["backend"] for one in tried} <= {"onnxruntime", "openvino"}


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (table(task="another"), "task 't', got 'another'"),
        (table(measure="sqnr_db"), "measured in quality, got sqnr_db"),
        (table("factorize"), "varies Factorize.ratio"),
        ("prune", "prior must be a result of wb.sensitivity"),
        ([1], "prior must be a result of wb.sensitivity"),
    ],
)
def test_a_prior_that_says_nothing_of_the_search_is_refused(prior, words):
    with pytest.raises(ConfigError, match=words):
        starting_points(prior, SPACE, drop=0.01, task=TASK)
