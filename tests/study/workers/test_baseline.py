"""The baseline's threads: chosen by time, kept by a study, and put into its plan."""

from __future__ import annotations

import time

import pytest
import torch

import workbench as wb
from workbench.core.machine import fingerprint_id
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import make_plan
from workbench.study.results.schema import new_row
from workbench.study.workers.baseline import (
    ThreadChoice,
    choose_threads,
    fastest_threads,
    with_earlier_baseline,
    with_fastest_baseline,
)

RECIPES = [wb.Recipe(wb.Prune(ratio=0.5), name="prune")]


def plan_of(threads: int = 2, **options):
    return make_plan("f" * 12, RECIPES, ["torch-eager", "openvino"], (32, 1), threads=threads, **options)


@pytest.mark.parametrize(("single_s", "several_s", "threads"), [(0.012, 0.004, 4), (0.004, 0.012, 1)])
def test_the_faster_of_one_and_several_threads_is_chosen(single_s, several_s, threads):
    asked = []

    def call(count: int) -> None:
        asked.append(count)
        time.sleep(single_s if count == 1 else several_s)

    found = fastest_threads(call, 4, budget_s=0.3)
    assert set(asked) == {1, 4}
    assert (found.threads, found.other) == (threads, 5 - threads)
    assert 1.5 < found.low <= found.ratio <= found.high  # the true one is 3


@pytest.mark.slow
def test_a_real_model_is_timed_and_torch_keeps_its_threads(shared_task):
    before = torch.get_num_threads()
    point = OperatingPoint(4)
    (found,) = choose_threads(shared_task, [point], 2).values()
    assert {found.threads, found.other} == {1, 2} and found.ratio >= 1
    assert torch.get_num_threads() == before


def test_a_plan_takes_the_choice_of_each_point_for_its_baseline_alone():
    plan = plan_of()
    primary, other = plan.points
    asked = []

    def measure(points, threads):
        asked.append((tuple(points), threads))
        return {primary: ThreadChoice(1, 2, 1.5, 1.4, 1.6), other: ThreadChoice(2, 1, 1.2, 1.1, 1.3)}

    moved = with_fastest_baseline(plan, plan.points, measure)
    assert asked == [(plan.points, 2)]
    assert (moved.baseline(primary).threads, moved.baseline(other).threads) == (1, 2)
    assert moved.baseline(primary).key != plan.baseline(primary).key
    assert moved.baseline(other) == plan.baseline(other)
    rest = [trial for trial in moved.trials if not trial.baseline]
    assert rest == [trial for trial in plan.trials if not trial.baseline]
    assert "1.50 times as long" in moved.baseline_notes[primary]
    assert with_fastest_baseline(plan, (), measure) is plan


def earlier(point: OperatingPoint, threads: int, **changes):
    known = {"baseline": True, "state": "complete", "fingerprint": fingerprint_id(), "batch_size": point.batch}
    return new_row(**{**known, "threads": threads, **changes})


def test_a_study_keeps_the_baseline_that_it_has():
    plan = plan_of()
    primary, other = plan.points
    moved, missing = with_earlier_baseline(plan, [earlier(primary, 1)])
    assert moved.baseline(primary).threads == 1 and missing == (other,)


@pytest.mark.parametrize(
    "changes",
    [{"threads": 3}, {"fingerprint": "elsewhere"}, {"state": "failed"}, {"baseline": False}, {"shape": "a=1"}],
)
def test_rows_of_other_machines_threads_and_states_are_no_earlier_baseline(changes):
    plan = plan_of()
    row = earlier(plan.primary, 1)
    row.update(changes)
    moved, missing = with_earlier_baseline(plan, [row])
    assert moved.baseline(plan.primary).threads == 2 and missing == plan.points


def test_nothing_is_chosen_for_one_thread_or_another_runtime():
    assert with_earlier_baseline(plan_of(threads=1), [])[1] == ()
    plan = plan_of(baseline="openvino")
    assert with_earlier_baseline(plan, []) == (plan, ())
    assert plan.baseline(plan.primary).backend == "openvino"


@pytest.mark.slow
def test_the_study_says_why_its_baseline_has_its_threads(shared_task, tmp_path):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        study.run([], backends=["onnxruntime"], batch_sizes=(4,), threads=2)
        (base,) = [row for row in study.rows() if row["baseline"]]
        assert base["threads"] in (1, 2) and "times as long here" in base["notes"]["threads"]
        again = study.run([], backends=["onnxruntime"], batch_sizes=(4,), threads=2)
        assert (again.finished, again.reused) == (0, 2)
        assert sum(row["baseline"] for row in study.rows()) in (1, 2)  # 2 if finals found the other one faster
