"""The loop with a stand-in for the processes: each sampler, constraints, what is known already, interruptions."""

from __future__ import annotations

import json
import subprocess
import sys

import optuna
import pytest

import workbench as wb
from workbench.core.errors import Cancelled, StudyError
from workbench.study.search.goals import Goals, recommend
from workbench.study.search.history import History, counts
from workbench.study.search.sampler import OptunaSampler, quiet_optuna
from workbench.study.storage.database import new_owner
from workbench.study.workers.process import OutOfTime

SPACE = wb.Space(
    wb.maybe(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9, step=0.2))),
    wb.maybe(wb.Quantize()),
    backends=("onnxruntime", "openvino"),
    batch_sizes=(8,),
)


def oracle(formula, space, goals, sizes=(8,)):
    """Return the least latency of all points within the goals, by going through the space without Optuna."""
    runner = formula(sizes)
    rows = [runner.do(runner.trial(space.at(point)))[0] for point in space.points()]
    return min(row["latency_ms_p50"] for row in rows if goals.hold(row))


def test_a_grid_does_every_point_once_and_finds_the_best_by_definition(search_run, formula):
    words, runner, tried, asked = search_run(SPACE, sampler="grid", trials=1000)
    assert words == f"the whole space was searched ({SPACE.size} points)"
    assert len(runner.done) == SPACE.size == 24 == len({t.key for t in runner.done})
    assert [one.state for one in tried] == ["complete"] * 24
    best = recommend(list(runner.rows.values()), asked)
    assert best.met and best.row["latency_ms_p50"] == oracle(formula, SPACE, Goals())
    assert best.row["quality_drop"] <= 0.01 and best.row["recipe"] == "prune 0.3 + int8"
    assert "of 14 variants that meet the goals (drop at most 0.01; 24 compared)" in best.reason


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize(
    ("sampler", "near"),
    [("tpe", 1.25), *(pytest.param(name, 1.5, marks=pytest.mark.slow) for name in ("random", "nsga2"))],
)
def test_each_sampler_comes_near_the_best_of_an_endless_space_within_the_goals(search_run, sampler, near):
    pruned = wb.maybe(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9)))
    space = wb.Space(pruned, wb.maybe(wb.Quantize()), backends=("onnxruntime", "openvino"), batch_sizes=8)
    words, runner, tried, asked = search_run(space, sampler=sampler, trials=30)
    assert words == "all 30 trials were run" and sum(counts(tried).values()) == 30
    best = recommend(list(runner.rows.values()), asked)
    # within a drop of 0.01 int8 and a ratio of (0.008 / 0.04) ** 0.5 are the best there is
    limit = 10 * (1 - 0.7 * (0.008 / 0.04) ** 0.5) * 0.6 * 0.4
    assert best.met and limit <= best.row["latency_ms_p50"] < near * limit


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_goals_reach_the_sampler_as_constraints(search_run, sampler):
    """Without them the fastest points draw it to where nothing holds the goals."""
    pruned = wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9))
    space = wb.Space(pruned, wb.maybe(wb.Quantize()), backends=("onnxruntime", "openvino"), batch_sizes=8)
    _, _, tight, _ = search_run(space, sampler=sampler, trials=60)
    late = [one.params["Prune.ratio"] for one in tight[30:]]
    assert sum(ratio > 0.65 for ratio in late) < 0.2 * len(late)  # by chance a third of them, and speed alone wants all
    with quiet_optuna():
        study = optuna.load_study(study_name="a search", storage=search_run.url)
        assert all(set(t.constraints) == {"max_quality_drop"} for t in study.trials)
        for trial, one in zip(study.trials, tight, strict=True):
            assert trial.constraints["max_quality_drop"] == pytest.approx((one.validation_drop - 0.01) / 0.01)


@pytest.mark.slow
def test_without_a_limit_that_binds_the_sampler_goes_for_speed(search_run):
    space = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9)), backends="openvino", batch_sizes=8)
    _, _, loose, _ = search_run(space, trials=25, goals=Goals(max_quality_drop=1.0))
    ratios = [one.params["Prune.ratio"] for one in loose[15:]]
    assert sum(ratios) / len(ratios) > 0.7  # nothing holds it back from the fastest


def test_every_trial_is_in_optunas_tables_with_its_state_parameters_and_values(search_run, formula):
    runner = formula(
        broken=lambda t: t.backend == "onnxruntime" and len(t.recipe.steps) == 2, pruned=lambda drop: drop > 0.02
    )
    _, _, tried, _ = search_run(SPACE, sampler="grid", trials=1000, runner=runner)
    with quiet_optuna():
        study = optuna.load_study(study_name="a search", storage=search_run.url)
    assert study.directions == [optuna.study.StudyDirection.MINIMIZE] and study.metric_names == ["latency_ms_p50"]
    assert len(study.trials) == len(tried) == 24
    names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for trial, one in zip(study.trials, tried, strict=True):
        row = runner.rows[trial.user_attrs["trial_key"]]
        assert trial.state.name == names[row["state"]] and trial.params == one.params
        assert trial.params["backend"] == row["backend"]
        assert trial.values == ([pytest.approx(row["latency_ms_p50"])] if row["state"] == "complete" else None)
        assert trial.user_attrs["ending"]["reason"] == row["error"]
    assert counts(tried) == {"complete": 15, "pruned": 4, "failed": 5} and sum(counts(tried).values()) == 24


def test_what_is_known_is_answered_from_its_row_and_counts_once(search_run):
    small = wb.Space(wb.vary(wb.Prune, ratio=wb.choice(0.3, 0.6)), backends=("onnxruntime", "openvino"), batch_sizes=8)
    _, runner, tried, _ = search_run(small, sampler="random", trials=4)
    assert len(runner.done) == 4 and sum(counts(tried).values()) == 4 < len(tried)
    assert [one.reused for one in tried].count(False) == 4
    by_key = {one.trial_key: one.values for one in tried if not one.reused}
    assert all(one.values == by_key[one.trial_key] for one in tried)


def test_a_sampler_that_goes_round_in_circles_is_led_to_what_was_not_tried(search_run, monkeypatch):
    monkeypatch.setattr("workbench.study.search.loop.STUCK", 1)
    small = wb.Space(
        wb.vary(wb.Prune, ratio=wb.choice(0.3, 0.6, 0.9)), backends=("onnxruntime", "openvino"), batch_sizes=8
    )
    words, runner, tried, _ = search_run(small, sampler="tpe", trials=100)
    assert "searched (6 points)" in words and len(runner.done) == 6
    known = [one.reused for one in tried]
    assert [True, True] not in [known[n : n + 2] for n in range(len(known))]


def test_a_sampler_with_nothing_new_ends_the_search(search_run, formula, monkeypatch):
    monkeypatch.setattr("workbench.study.search.loop.IDLE", 5)
    same = wb.Space(wb.Prune(0.5), backends="onnxruntime", batch_sizes=8)
    runner = formula()
    runner.trial = lambda _, trial=runner.trial: trial(same.at({}))  # whatever is proposed, it is one trial
    continuous = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.2)), backends="onnxruntime", batch_sizes=8)
    words, _, tried, _ = search_run(continuous, runner=runner)
    assert "known points in a row" in words and len(tried) == 6 and len(runner.done) == 1


def test_the_same_call_again_goes_on_and_proposes_something_else(search_run):
    space = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9)), backends="openvino", batch_sizes=8)
    _, runner, first, _ = search_run(space, sampler="random", trials=5)
    _, runner, both, _ = search_run(space, sampler="random", trials=12, runner=runner)
    assert both[:5] == first and len(both) == 12 == len(runner.done)
    assert len({one.params["Prune.ratio"] for one in both}) == 12
    _, _, same, _ = search_run(space, sampler="random", trials=12, runner=runner)
    assert same == both


@pytest.mark.parametrize("error", [OutOfTime("late"), KeyboardInterrupt()])
def test_a_point_that_is_interrupted_is_proposed_again_first(search_run, formula, error):
    runner = formula()

    def interrupt(trial, do=runner.do):
        if len(runner.done) == 3:
            runner.lost = trial.key
            raise error
        return do(trial)

    runner.do = interrupt
    with pytest.raises(type(error)):
        search_run(SPACE, sampler="random", runner=runner)
    fresh = formula()
    _, _, tried, _ = search_run(SPACE, sampler="random", trials=5, runner=fresh)
    assert tried[3].state == "interrupted" and tried[4].trial_key == runner.lost == fresh.done[0].key
    assert tried[4].params == tried[3].params and sum(counts(tried).values()) == 5


def test_a_callback_that_cancels_after_a_point_has_ended_loses_nothing(search_run, formula):
    def cancel(event):
        if event.done == 2:
            raise Cancelled

    runner = formula()
    with pytest.raises(Cancelled):
        search_run(SPACE, sampler="random", runner=runner, progress=cancel)
    _, _, tried, _ = search_run(SPACE, sampler="random", trials=2, runner=runner)
    assert [one.state for one in tried if not one.reused] == ["complete", "complete"]


def test_points_of_a_process_that_is_gone_are_taken_up_and_those_of_a_living_one_are_not(search_run):
    question_space = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9)), backends="openvino", batch_sizes=8)
    from workbench.study.search.goals import Objective

    asked = Objective(Goals(), ("latency_ms_p50",), (8,))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, _, _ = new_owner().rpartition(":")[0].rpartition(":")
    owners = [f"{host}:{dead.pid}:x", new_owner()]
    left = []
    for owner in owners:
        proposer = OptunaSampler(
            search_run.url, "a search", question_space, asked, sampler="random", seed=1, owner=owner
        )
        left.append(proposer.ask())
        proposer.close()
    _, _, tried, _ = search_run(question_space, sampler="random", trials=1)
    assert [one.state for one in tried] == ["interrupted", "complete"]
    assert tried[1].params == left[0].trial.params
    with quiet_optuna():
        states = [t.state.name for t in optuna.load_study(study_name="a search", storage=search_run.url).trials]
    assert states == ["FAIL", "RUNNING", "COMPLETE"]


def test_throughput_is_made_large_over_batch_sizes_within_a_limit_of_latency(search_run):
    space = wb.Space(
        wb.maybe(wb.Quantize()),
        backends=("onnxruntime", "openvino"),
        batch_sizes=(1, 8, 32),
        engine={"threads": wb.choice(1, 4)},
    )
    goals = Goals(max_latency_ms=2.0)
    _, runner, tried, asked = search_run(space, sampler="grid", trials=100, goals=goals, figures=("throughput_per_s",))
    rows = list(runner.rows.values())
    assert len(rows) == 24
    best = recommend(rows, asked)
    held = [row for row in rows if row["latency_ms_p50"] <= 2.0]
    assert best.row["throughput_per_s"] == max(row["throughput_per_s"] for row in held)
    assert (best.row["latency_ms_p50"], best.row["batch_size"]) == (pytest.approx(1.2), 8)
    assert History("x", asked, tried).best_so_far()[-1] == pytest.approx(best.row["throughput_per_s"])


def test_several_figures_give_nsga2_a_front(search_run):
    space = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9)), backends="openvino", batch_sizes=8)
    figures = ("latency_ms_p50", "quality_drop")
    search_run(space, sampler="nsga2", trials=10, goals=Goals(max_quality_drop=1.0), figures=figures)
    with quiet_optuna():
        study = optuna.load_study(study_name="a search", storage=search_run.url)
        assert len(study.best_trials) == 10  # less latency is more drop here: nothing beats anything


def test_optuna_writes_nothing_and_its_loudness_is_put_back(search_run, capfd, recwarn):
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        search_run(SPACE, sampler="tpe", trials=12)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    assert capfd.readouterr() == ("", "")
    assert [w for w in recwarn if "optuna" in str(w.filename)] == []


def test_progress_counts_points_and_tells_the_row(search_run):
    events = []
    search_run(SPACE, sampler="random", trials=6, events=events)
    assert {event.stage for event in events} == {"search"} and {event.total for event in events} == {6}
    done = [event.done for event in events]
    assert done == sorted(done) and done[-1] == 6
    assert all(event.values["row"]["state"] == "complete" for event in events)


def test_a_point_that_another_process_has_ended_meanwhile_is_no_error(search_run):
    from workbench.study.search.goals import Objective

    asked = Objective(Goals(), ("latency_ms_p50",), (8,))
    made = [
        OptunaSampler(search_run.url, "a search", SPACE, asked, sampler="random", seed=1, owner=new_owner())
        for _ in range(2)
    ]
    points = [made[0].ask(), made[0].ask()]
    for point in points:  # the other one took this search for dead
        made[1]._study.tell(point.trial.number, state=optuna.trial.TrialState.FAIL)
    made[0].tell(points[0], "complete", values=[1.0])
    made[0].requeue(points[1])
    assert [one.state for one in made[1].records()] == ["failed", "failed"]
    for one in made:
        one.close()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_number_of_a_stepped_range_is_one_point(search_run, sampler):
    space = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.5, step=0.1)), backends="openvino", batch_sizes=8)
    words, runner, _, _ = search_run(space, sampler=sampler, trials=50)
    ratios = [json.loads(trial.recipe.to_json())["steps"][0]["ratio"] for trial in runner.done]
    assert sorted(ratios) == [0.1, 0.2, 0.3, 0.4, 0.5] and "(5 points)" in words


def test_what_optuna_says_of_its_tables_comes_in_words():
    with (
        pytest.raises(StudyError, match=r"Optuna's tables .* cannot be used: disk is full. Free some space"),
        quiet_optuna(),
    ):
        raise optuna.exceptions.StorageInternalError("x") from OSError("disk is full")
