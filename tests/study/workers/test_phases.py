"""Seconds by phase: what overlaps counts once, and what a run says of itself adds up."""

import pytest

import workbench as wb
from workbench.study.execution.job import RunSummary
from workbench.study.workers.policy import PHASES, Phases, spans_of


def test_overlaps_count_once_in_a_phase_and_once_in_the_whole():
    phases = Phases()
    phases.add(
        [("train", 0.0, 4.0), ("train", 1.0, 2.0), ("train", 3.0, 5.0), ("load", 4.5, 6.0), ("load", 10.0, 11.0)]
    )
    assert phases.seconds() == {"train": 5.0, "load": 2.5}
    assert phases.covered_s() == 7.0


def test_nothing_was_done_is_told_as_nothing():
    assert Phases().seconds() == {} and Phases().covered_s() == 0.0


def test_a_block_is_noted_also_when_it_fails():
    phases = Phases()
    with pytest.raises(KeyError), phases.during("waiting"):
        raise KeyError
    assert list(phases.seconds()) == ["waiting"]


def test_commands_are_phases_and_loading_a_task_is_none():
    assert spans_of("evaluate", 1.0, 2.0) == [("quality", 1.0, 2.0)]
    assert spans_of("task", 1.0, 2.0) == [] and spans_of("prepare", 1.0, 2.0) == []


def test_the_harness_is_what_no_phase_covers():
    summary = RunSummary(2, 0, 0, 0, False, 10.0, phases_s={"train": 4.0, "timed": 4.0}, covered_s=7.0)
    assert summary.harness_s == 3.0
    assert "train 4, timed 4; the workbench itself 3" in repr(summary)
    assert "seconds by phase" not in repr(RunSummary(0, 2, 0, 0, False, 0.1))


@pytest.mark.slow
def test_a_run_tells_where_its_time_went(shared_task, tmp_path):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        summary = study.run([], backends=["onnxruntime"], batch_sizes=[4], threads=1)
    assert set(summary.phases_s) == set(PHASES)
    assert all(seconds >= 0 for seconds in summary.phases_s.values())
    assert max(summary.phases_s.values()) <= summary.covered_s <= sum(summary.phases_s.values()) + 1e-6
    assert 0 < summary.covered_s < summary.seconds
