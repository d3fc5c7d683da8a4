"""Whole plans with a fake clock: the budget holds, the essentials come first, and a fallback is always complete."""

import pytest

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, PruneDepth, Quantize


def trained_rungs(played):
    """Return the names of the complete rows of the ladder, in the order they were measured."""
    return [name for _, name, _, survey, _ in played.world.log if "distill" in name and not survey]


def test_one_minute_measures_what_needs_no_training_and_trains_nothing(world, play):
    played = play(world(60.0, epoch_s=2.0))
    assert played.ended and played.world.trained_s == 0
    assert [name for _, name, _, survey, _ in played.world.log if not survey] == ["float"] * 3 + ["quantize"] * 2
    assert played.best.recipe.name == "quantize" and played.best.backend == "openvino"


def test_three_minutes_end_decided_with_nothing_essential_left(world, play):
    played = play(world(180.0, epoch_s=2.0))
    assert played.ended and played.over_int8 >= 1.4
    assert played.best.recipe.recipe_id in played.world.points  # timed at the other batch sizes too
    surveyed = {name for _, name, _, survey, _ in played.world.log if survey}
    assert {"prune", "depth", "factorize", "quantize"} <= surveyed


def test_twenty_minutes_go_to_the_best_axis(world, play):
    played = play(world(1200.0))
    assert played.ended and played.over_int8 >= 1.45
    depth = sum(
        step.max_seconds
        for row in played.world.rows.values()
        for step in row.recipe.steps[-2:]
        if isinstance(step, Distill) and isinstance(row.recipe.steps[0], PruneDepth)
    )
    assert depth > 0.5 * 1200 and played.world.trained_s > 0.6 * 1200
    assert isinstance(played.best.recipe.steps[-1], Quantize)
    surveyed = {name for _, name, _, survey, _ in played.world.log if survey}
    assert {"depth", "prune", "factorize", "distill", "sparsify", "quantize", "quantize-qat"} <= surveyed


def test_the_survey_comes_after_every_rung_and_is_told_apart(world, play):
    played = play(world(1200.0))
    surveyed = [survey for _, _, _, survey, _ in played.world.log]
    assert surveyed == sorted(surveyed)
    unjudged = {(name, backend) for _, name, backend, _, judged in played.world.log if not judged}
    assert unjudged == {("quantize", "torch-eager"), ("sparsify", "openvino")}


@pytest.mark.parametrize("budget", [60.0, 180.0, 1200.0])
def test_the_finals_come_before_the_survey(world, play, budget):
    played = play(world(budget, epoch_s=2.0 if budget < 1000 else 18.0))
    surveyed = [at for at, _, _, survey, _ in played.world.log if survey]
    assert max(at for at, _, _, survey, _ in played.world.log if not survey) <= played.world.finals_at <= min(surveyed)


def test_rungs_go_on_from_what_was_trained(world, play):
    played = play(world(1200.0))
    rungs = [row.recipe for row in played.world.rows.values() if "distill + int8" in (row.recipe.name or "")]
    assert rungs[1].steps[: len(rungs[0].steps) - 1] == rungs[0].steps[:-1]


def test_a_better_recovery_goes_further_and_a_worse_one_gentler(world, play):
    good = play(world(1200.0, loss=(0.01, 0.5, 3.5)))
    bad = play(world(1200.0, loss=(0.01, 0.22, 3.5)))
    assert good.over_int8 > 1.6 and 1.1 < bad.over_int8 < 1.35
    assert any("removed" in subject for subject in bad.decided("dropped"))


def test_training_that_never_helps_costs_no_more_than_it_may_and_int8_stays(world, play):
    played = play(world(1200.0, trains=False))
    assert played.best.recipe.name == "quantize"
    assert played.world.now <= 1200.0 and played.ended
    assert played.world.trained_s < 0.5 * 1200


@pytest.mark.parametrize("budget", [60.0, 200.0, 1200.0])
def test_int8_that_breaks_the_quality_is_mended_or_left_out(world, play, budget):
    played = play(world(budget, int8=(2.0, 0.2), epoch_s=2.0 if budget < 1000 else 18.0))
    assert "quantize-mixed" in {row.recipe.name for row in played.world.rows.values()}
    assert played.best.speedup >= 4.3


def test_int8_slower_than_float_ends_no_recipe(world, play):
    played = play(world(1200.0, int8=(0.7, 0.001)))
    assert not any(isinstance(step, Quantize) for step in played.best.recipe.steps)
    assert played.over_int8 > 1.4


@pytest.mark.parametrize("left_out", ["openvino", "onnxruntime", "torch-eager"])
def test_a_missing_engine_changes_the_leader_only(world, play, left_out):
    speeds = {"torch-eager": 1.0, "onnxruntime": 2.0, "openvino": 2.2}
    speeds.pop(left_out)
    played = play(world(1200.0, speeds=speeds))
    assert played.over_int8 > 1.4 and played.best.backend in speeds


def test_torch_eager_alone_is_no_place_for_int8(world, play):
    played = play(world(1200.0, speeds={"torch-eager": 1.0}))
    assert played.best.backend == "torch-eager"
    assert not any(isinstance(step, Quantize) for step in played.best.recipe.steps) and played.over_int8 > 1.4


def test_without_training_samples_the_report_ends_with_the_best_and_tells_what_data_would_buy(world, play):
    played = play(world(200.0), train=0)
    assert played.best.recipe.name == "quantize" and played.world.trained_s == 0 and played.ended
    told = [decision.why for decision in played.record.decisions if decision.stage == "data"]
    assert len(told) == 1 and "1." in told[0] and "x over quantize" in told[0]
    assert not any(getattr(step, "epochs", 0) for row in played.world.rows.values() for step in row.recipe.steps)


def test_few_training_samples_train_more_gently_and_tell_what_data_would_buy(world, play):
    few, many = play(world(200.0, epoch_s=0.1), train=194), play(world(200.0, epoch_s=2.0))

    def first_share(played):
        return played.record.facts["bold"]["share"]

    assert first_share(few) < first_share(many)
    assert [decision.stage for decision in few.record.decisions].count("data") == 1
    assert few.best.within(0.01)


@pytest.mark.parametrize("budget", [60.0, 200.0, 1200.0])
@pytest.mark.parametrize("slow", [1.0, 2.0, 6.0])
def test_preparations_that_take_longer_than_predicted_leave_the_budget_and_the_fallback(world, play, budget, slow):
    played = play(world(budget, slow=slow, epoch_s=2.0 if budget < 1000 else 18.0))
    assert played.world.now <= budget
    assert played.best.within(0.01) and played.best.speedup >= 2.2
    if budget == 1200.0:
        assert played.best.speedup >= 4.4 and played.ended


@pytest.mark.parametrize("kind", ["PruneDepth", "Prune", "Factorize", "Distill", "Quantize", "Sparsify"])
def test_a_technique_that_fails_takes_nothing_else_along(world, play, kind):
    played = play(world(1200.0, fails={kind}))
    assert played.ended
    assert played.best.speedup >= (2.2 if kind == "Quantize" else 4.4)


def test_axes_that_both_pay_are_compared_at_one_speed_by_a_short_training(world, play):
    gains = {"depth": 1.0, "width": 1.0, "rank": 0.0}
    played = play(world(1200.0, gains=gains, width_loss=(0.004, 0.3, 2.4)))
    stages = [decision.stage for decision in played.record.decisions]
    assert stages.count("early comparison") == 2
    assert any(
        "prune" in (row.recipe.name or "") and "distill + int8" in row.recipe.name for row in played.world.rows.values()
    )
    depth_wins = play(world(1200.0, gains=gains, width_loss=(0.02, 0.3, 2.4)))
    assert depth_wins.best.recipe.label.startswith("depth")


def test_a_slow_machine_trains_one_rung_and_keeps_it(world, play):
    played = play(world(200.0, epoch_s=2.0, scale=1.6))
    assert played.best.within(0.01) and played.best.speedup >= 4.4


def test_a_resumed_run_repeats_the_decisions_and_trains_nothing_again(world, play, memory):
    first = world(1200.0)
    before = play(first, memory=memory)
    trained, measured = first.trained_s, len(first.rows)
    first.now = 300.0  # another clock, another time left
    after = play(first, memory=memory)
    assert (first.trained_s, len(first.rows)) == (trained, measured)
    begun = [[d.subject for d in p.record.decisions if d.outcome != "not begun"] for p in (before, after)]
    assert begun[0] == begun[1]


def test_an_interrupted_run_goes_on_with_the_same_recipes(world, play, memory):
    whole = play(world(1200.0))
    halves = world(1200.0)
    halves.budget_s = 500.0  # what it is killed at; it was planned for 1,200 s
    from workbench.study.strategy.decision_log import DecisionLog
    from workbench.study.strategy.interface import PlanRequest
    from workbench.study.strategy.strategy import Strategy
    from workbench.study.workers.process import OutOfTime

    question = PlanRequest(
        limit=0.01, budget_s=1200.0, backends=tuple(halves.speeds), train_samples=3370, validation_samples=374, points=3
    )
    halves.remaining = lambda: 1200.0 - halves.now
    with pytest.raises(OutOfTime):
        Strategy(question, halves, DecisionLog(memory, "a study", {"question": 1})).run()
    seen = {recipe_id for recipe_id, _ in halves.rows}
    halves.budget_s, halves.now = 1200.0, 100.0
    Strategy(question, halves, DecisionLog(memory, "a study", {"question": 1})).run()
    assert seen <= {recipe_id for recipe_id, _ in halves.rows}
    first_rungs = [row.recipe for row in whole.world.rows.values() if "(1)" in (row.recipe.name or "")]
    assert first_rungs[0].recipe_id in {recipe_id for recipe_id, _ in halves.rows}


def test_every_recipe_of_the_plan_has_the_seed_and_a_name_of_its_own(world, play):
    played = play(world(1200.0))
    recipes = [Recipe.from_dict(values) for values in played.record.recipes.values()]
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert {recipe.seed for recipe in recipes} == {0}


def test_without_time_for_a_probe_depth_is_trained_as_it_is_known(world, play):
    slow_probe = world(200.0, epoch_s=2.0)
    slow_probe.probe = lambda recipes, **options: slow_probe._spend(30.0) or []
    played = play(slow_probe)
    assert played.over_int8 > 1.2
    depth = played.best.recipe.steps[0]
    assert isinstance(depth, PruneDepth) and depth.blocks is None
