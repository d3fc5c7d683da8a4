"""A search begins with what needs no training, follows up what was trained, and leaves out what takes too long."""

from __future__ import annotations

import math
import types

import pytest

import workbench as wb
from workbench.study.execution.budget import EXPORT_S, TRAINING_S, TimeBudget
from workbench.study.search.executor import search_plan
from workbench.study.search.starting_points import crossover, training_free_points, trains
from workbench.study.workers.process import CancelToken

TRAINED = wb.maybe(wb.vary(wb.Prune, ratio=wb.choice(0.2, 0.4)), wb.Distill(epochs=2))
SPACE = wb.Space(
    TRAINED,
    wb.maybe(wb.vary(wb.Quantize, observer=wb.choice("minmax", "histogram"))),
    backends=("onnxruntime", "openvino"),
    batch_sizes=8,
    engine={"threads": wb.choice(1, 2)},
)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (wb.Prune(0.5), False), (wb.Prune(0.5, rounds=2, recover_epochs=1), True), (wb.Quantize(), False),
        (wb.Quantize(qat_epochs=1), True), (wb.Distill(), True), (wb.Factorize(ratio=0.5), False),
        ((wb.Distill, (("student", wb.choice("a:b", "c:d")),)), True),
        ((wb.Quantize, (("qat_epochs", wb.between(0.0, 2.0)),)), True), ((wb.Quantize, (("bits", 8),)), False),
    ],
)  # fmt: skip
def test_what_trains(step, expected):
    assert trains(step) is expected


def test_the_points_without_training_come_with_more_steps_first_on_every_backend():
    assert training_free_points(SPACE) == [
        {"Prune?": False, "Quantize?": int8, "backend": backend}
        for int8 in (True, False)
        for backend in ("onnxruntime", "openvino")
    ]
    assert len(training_free_points(SPACE, most=3)) == 3


def test_they_lead_through_choices_of_steps_and_recipes():
    smaller = wb.vary(wb.Distill, epochs=wb.choice(1.0, 2.0))
    space = wb.Space(
        wb.choice(None, wb.Prune(0.2), smaller, wb.Recipe(wb.Prune(0.4), wb.Distill())), backends="openvino"
    )
    name = space.template[0].name
    labels = space.template[0].part.values()
    assert training_free_points(space) == [{name: labels[1]}, {name: None}]


def test_there_are_none_where_nothing_trains_or_everything_does():
    assert training_free_points(wb.Space(wb.maybe(wb.Prune(0.5)), wb.maybe(wb.Quantize()))) == []
    assert (
        training_free_points(
            wb.Space(wb.vary(wb.Prune, ratio=wb.choice(0.2, 0.4)), wb.Distill(), wb.maybe(wb.Quantize()))
        )
        == []
    )


def point(**changes):
    chosen = {"Prune?": True, "Prune.ratio": 0.4, "Quantize?": False, "backend": "onnxruntime", "engine.threads": 1}
    return {key: value for key, value in (chosen | changes).items() if value is not None}


INT8 = {"Prune?": False, "Quantize?": True, "Quantize.observer": "minmax", "backend": "openvino", "engine.threads": 2}


def test_what_was_trained_is_put_together_with_the_rest_of_the_best():
    best = {
        "Prune?": False,
        "Quantize?": True,
        "Quantize.observer": "minmax",
        "backend": "openvino",
        "engine.threads": 2,
    }
    found = crossover(SPACE, point(), best)
    assert found == best | {"Prune?": True, "Prune.ratio": 0.4}
    proposal = SPACE.at(found)
    assert [type(step).__name__ for step in proposal.recipe.steps] == ["Prune", "Distill", "Quantize"]
    assert (proposal.backend, proposal.threads) == ("openvino", 2)
    assert crossover(SPACE, INT8, point()) is None  # it trained nothing


def test_the_trained_steps_of_the_best_are_not_taken_over():
    best = point(**{"Prune.ratio": 0.2, "backend": "openvino"})
    assert crossover(SPACE, point(), best) == point(backend="openvino")


def test_a_search_follows_up_each_training_once(search_run):
    start = [INT8, point(**{"Prune.ratio": 0.2})]
    _, _, tried, _ = search_run(SPACE, trials=3, start=start, follow=True)
    assert tried[2].params == start[0] | {"Prune?": True, "Prune.ratio": 0.2}
    assert tried[2].recipe.startswith("prune 0.2 + distill + int8") and tried[2].backend == "openvino"
    _, _, again, _ = search_run(SPACE, trials=8, start=start, follow=True)
    assert len({tuple(sorted(one.params.items())) for one in again if not one.reused}) == 8


def test_a_point_that_fails_or_is_hopeless_is_not_followed_up(search_run, formula):
    start = [INT8, point(**{"Prune.ratio": 0.4})]
    runner = formula(pruned=lambda drop: drop > 0.005)
    _, _, tried, _ = search_run(SPACE, sampler="random", trials=3, start=start, follow=True, runner=runner)
    assert tried[1].state == "pruned"
    assert tried[2].params != start[0] | {"Prune?": True, "Prune.ratio": 0.4}


@pytest.mark.slow
def test_what_takes_too_long_is_left_out_and_not_proposed_again(search_run, formula):
    runner = formula()
    runner.fits = lambda trial: not any(map(trains, trial.recipe.steps))
    _, _, tried, _ = search_run(SPACE, sampler="random", trials=4, runner=runner)
    left = [one for one in tried if one.state == "interrupted"]
    assert left and all("too short" in one.reason for one in left)
    assert len(runner.done) == 4 and not any(trains(step) for trial in runner.done for step in trial.recipe.steps)


def test_a_runner_that_has_room_for_nothing_is_asked_all_the_same(search_run, formula, monkeypatch):
    monkeypatch.setattr("workbench.study.search.loop.TOO_LONG", 3)
    runner = formula()
    runner.fits = lambda trial: False
    _, _, tried, _ = search_run(SPACE, sampler="random", trials=1, runner=runner)
    assert [one.state for one in tried] == ["interrupted"] * 3 + ["complete"]


def report(kind, epochs, seconds):
    return {"step": {"step": kind}, "epochs_done": epochs, "seconds": seconds}


def budget(budget_s=math.inf):
    stop = CancelToken(None)
    stop.remaining = types.MethodType(lambda self: budget_s, stop)
    return TimeBudget(search_plan("f" * 12, (8,), threads=1, shape=()), stop)


def test_trainings_are_guessed_until_one_has_told_how_long_an_epoch_takes():
    pace, recipe = budget(), wb.Recipe(wb.Distill(epochs=4), wb.Quantize())
    assert pace.prepare_s(recipe) == EXPORT_S + TRAINING_S
    assert pace.prepare_s(wb.Recipe(wb.Distill(epochs=4, max_seconds=9))) == EXPORT_S + 9
    pace.learn(wb.Recipe(wb.Distill(epochs=2)), [report("Distill", 2.0, 80.0), report("Quantize", 0.0, 5.0)])
    assert pace.prepare_s(recipe) == EXPORT_S + 4 * 40
    assert pace.prepare_s(wb.Recipe(wb.Distill(epochs=4, max_seconds=9))) == EXPORT_S + 9
    assert pace.prepare_s(wb.Recipe(wb.Distill(epochs=0.1, max_seconds=9))) == EXPORT_S + 4


def test_a_beginning_that_was_prepared_takes_nothing():
    pace = budget()
    pace.learn(wb.Recipe(wb.Distill(epochs=2), seed=1), [report("Distill", 2.0, 80.0)])
    assert pace.prepare_s(wb.Recipe(wb.Distill(epochs=2), wb.Quantize(), seed=1)) == EXPORT_S
    assert pace.prepare_s(wb.Recipe(wb.Distill(epochs=2), wb.Quantize(), seed=2)) == EXPORT_S + 80
    assert budget(60.0).fits(wb.Recipe(wb.Quantize()), prepared=False)
    assert not budget(60.0).fits(wb.Recipe(wb.Distill()), prepared=False)
