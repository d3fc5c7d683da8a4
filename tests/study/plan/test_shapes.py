"""The second axis: lengths and resolutions beside the batch, in studies and benches."""

from __future__ import annotations

import numpy as np
import pytest
from paths import SUPPORT

import workbench as wb
from workbench.core.errors import ConfigError, StudyError
from workbench.plots.charts.study.tidy import complete_frame
from workbench.study import COLUMNS, bench_artifact
from workbench.study.plan.shapes import OperatingPoint, own_shape, parsed_shapes, shape_words, shapes_of
from workbench.study.plan.trials import make_plan

LENGTHS = f"{SUPPORT / 'lengths.py'}:lengths"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return a study of the float model at two lengths, and at their own."""
    folder = tmp_path_factory.mktemp("study")
    with wb.Study(wb.load_task(LENGTHS), storage=f"sqlite:///{folder}/s.db") as study:
        asked = {"recipes": [], "backends": ["onnxruntime"], "batch_sizes": (4,), "threads": 1}
        study.run(**asked, shapes={"sequence": [16, 4]})
        study.run(**asked)
        yield study


@pytest.mark.slow
def test_each_shape_has_rows_of_its_own(ran):
    rows = ran.rows()
    assert {(r["backend"], r["shape"]) for r in rows} == {
        (backend, shape)
        for backend in ("torch-eager", "onnxruntime")
        for shape in ("sequence=16", "sequence=4", "sequence=8")
    }
    for row in rows:
        assert row["state"] == "complete" and tuple(row) == COLUMNS
        assert row["speedup"] == 1.0 or not row["baseline"]
        assert ("own sizes" in row["notes"].get("macs", "")) == (row["shape"] != "sequence=8")
    assert len({row["trial_key"] for row in rows}) == 6


@pytest.mark.slow
def test_answers_never_compare_two_shapes(ran):
    best = ran.best(quality_drop=1.0, shape="sequence=16")
    assert best.row["shape"] == "sequence=16" and best.candidates == 2
    assert "batch 4, sequence=16" in best.reason
    assert ran.best(quality_drop=1.0).candidates == 2
    with pytest.raises(StudyError, match="Measured: 'sequence=16'"):
        ran.best(shape="sequence=5")
    front = ran.pareto()
    assert set(front["shape"]) == {"sequence=16", "sequence=4", "sequence=8"}
    assert len(complete_frame(ran.rows())) == 2


@pytest.mark.slow
def test_running_again_reuses_every_shape(ran, started):
    again = ran.run([], backends=["onnxruntime"], batch_sizes=(4,), threads=1, shapes={"sequence": [4]})
    assert (again.finished, again.reused) == (0, 2) and started == []


@pytest.mark.slow
def test_a_winner_at_a_shape_is_handed_over(ran, tmp_path):
    key = next(r["trial_key"] for r in ran.rows() if r["shape"] == "sequence=16" and not r["baseline"])
    folder = ran.export(tmp_path / "w", trial=key)
    text = (folder / "README.md").read_text()
    assert "`sequence` may have any size too" in text
    assert "`tokens`: int64 [batch, sequence]" in text and "a batch of 4, sequence=16:" in text


@pytest.mark.slow
def test_a_bench_times_shapes_and_says_what_is_not_open(ran, shared_task, tmp_path, started):
    artifact = wb.Recipe().apply(ran.task).save(tmp_path / "a")
    rows = bench_artifact(artifact, backends=["onnxruntime"], batch_sizes=[2], shapes={"sequence": [4, 300]})
    assert [(r["shape"], r["state"]) for r in rows] == [("sequence=4", "complete"), ("sequence=300", "complete")]
    (row,) = bench_artifact(artifact, backends=["onnxruntime"], batch_sizes=[2])
    assert row["shape"] == "sequence=8" and "shape" not in row["notes"] and "macs" not in row["notes"]
    count = len(started)
    with pytest.raises(ConfigError, match="Did you mean 'sequence'"):
        bench_artifact(artifact, shapes={"sequenze": [4]})
    fixed = wb.Recipe().apply(shared_task).save(tmp_path / "b")
    with pytest.raises(ConfigError, match="inputs have fixed shapes"):
        bench_artifact(fixed, shapes={"sequence": [4]})
    assert len(started) == count


def test_a_task_with_fixed_shapes_is_told_before_work_starts(shared_task, tmp_path, started):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        with pytest.raises(ConfigError, match="have fixed shapes"):
            study.run([], shapes={"sequence": [4]})
        assert started == [] and study.rows() == []


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([4], "sizes by name"),
        ({"sequence": 4}, "must be a list or tuple"),
        ({"sequence": []}, "is empty"),
        ({"sequence": [0]}, "at least 1"),
        ({"sequence": [True]}, "at least 1"),
        ({"sequence": [4], "width": [1, 2]}, "equally many sizes"),
        ({"lenght": [4]}, "not an open dimension.* Open: sequence, width"),
    ],
)
def test_shapes_that_cannot_be_timed_are_refused(shapes, words):
    with pytest.raises(ConfigError, match=words):
        shapes_of(shapes, ["sequence", "width"], whose="the task's")


def test_a_name_with_two_sizes_at_once_has_none_of_its_own():
    leaves = [np.zeros((2, 3)), np.zeros((2, 4, 5))]
    assert own_shape(leaves, [{1: "s"}, {1: "s", 2: "t"}]) == (("t", 5),)
    assert own_shape(leaves, [{}, {}]) == ()


def test_several_names_are_taken_together_and_equal_shapes_once():
    found = shapes_of({"h": [2, 2, 4], "w": [2, 2, 8]}, ["h", "w"], whose="the task's")
    assert [shape_words(shape) for shape in found] == ["h=2, w=2", "h=4, w=8"]
    assert shapes_of(None, [], whose="the task's") == shapes_of({}, [], whose="the task's") == ((),)


def test_the_first_shape_at_the_first_batch_is_measured_first():
    shapes = ((("s", 16),), (("s", 4),))
    plan = make_plan("f" * 12, [], ["openvino"], [1, 32], threads=1, shapes=shapes)
    assert plan.primary == OperatingPoint(32, shapes[0]) and plan.batch_sizes == (32, 1)
    assert [point.words for point in plan.points] == ["32 (s=16)", "32 (s=4)", "1 (s=16)", "1 (s=4)"]
    assert len({trial.key for trial in plan.trials}) == len(plan.trials) == 8


def test_the_shells_form_is_read():
    assert parsed_shapes(["height=32,64", "width=32,64"]) == {"height": [32, 64], "width": [32, 64]}
    assert parsed_shapes(None) is None
    for wrong in (["height"], ["height="], ["height=a"], ["=4"], ["h=4", "h=5"], ["h=4,"]):
        with pytest.raises(ConfigError, match="--shape"):
            parsed_shapes(wrong)
    for small in ("h=0", "h=-3", "h=4,-1"):
        with pytest.raises(ConfigError, match="at least 1"):
            parsed_shapes([small])
