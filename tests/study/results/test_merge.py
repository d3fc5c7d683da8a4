"""Rows from elsewhere: taken in once, kept apart by machine, refused in words where they do not belong."""

from __future__ import annotations

import json

import pytest

import workbench as wb
from workbench.core.errors import StudyError
from workbench.study.results.ranking import best_row, pareto_rows
from workbench.study.results.schema import new_row


@pytest.fixture
def study(shared_task, tmp_path):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as opened:
        yield opened


@pytest.fixture
def row(shared_task):
    def make(**more):
        known = {
            "task": "answers",
            "recipe": "prune",
            "recipe_id": "0123456789ab",
            "recipe_json": wb.Recipe(wb.Prune()).to_json(),
            "backend": "onnxruntime",
            "batch_size": 4,
            "threads": 2,
            "state": "complete",
            "latency_ms_p50": 3.0,
            "trial_key": "k" * 12,
            "artifact_key": "a" * 12,
            "task_fingerprint": shared_task.fingerprint,
            "fingerprint": "f" * 12,
            "machine": "Neoverse-N1, 4 cores",
            "notes": {"quality": "needs the task"},
        }
        return dict(new_row(**{**known, **more}))

    return make


def test_rows_come_in_once_and_say_which_machine(study, row, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(trial_key=key, batch_size=i)) + "\n" for i, key in enumerate("abc", 1)))
    merged = study.merge(path)
    assert str(merged) == ("3 rows added, 0 replaced, 0 unchanged; measured on Neoverse-N1, 4 cores (ffffffffffff)")
    before = study.rows()
    again = study.merge(path)
    assert (again.added, again.replaced, again.unchanged) == (0, 0, 3)
    assert study.rows() == before and len(before) == 3
    assert before[0]["notes"]["quality"] == "needs the task"


def test_what_json_printed_and_rows_themselves_are_taken_too(study, row, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([row()], indent=1))
    assert study.merge(tmp_path / "rows.json").added == 1
    assert study.merge([row()]).unchanged == 1


def test_a_newer_measurement_replaces_a_merged_one_and_never_the_studys_own(study, row):
    own = row(trial_key="own", samples="raw.npz")
    study._store.add(study.name, {"own": own})
    study.merge([row()])
    merged = study.merge([row(latency_ms_p50=2.0), {**own, "latency_ms_p50": 1.0}])
    assert (merged.added, merged.replaced, merged.unchanged) == (0, 1, 1)
    stored = study._store.load(study.name)
    assert stored["own"].row["latency_ms_p50"] == 3.0
    assert stored["k" * 12].row["latency_ms_p50"] == 2.0


def test_unfinished_rows_are_left_out_and_none_at_all_is_told(study, row):
    merged = study.merge([row(), row(trial_key="w", state="waiting"), row(trial_key="x", state="failed")])
    assert (merged.added, merged.skipped) == (1, 2)
    assert "2 skipped" in str(merged)
    for rows in ([], [row(state="failed")]):
        with pytest.raises(StudyError, match="finished row"):
            study.merge(rows)


def test_rows_of_another_study_lose_their_raw_samples(study, row):
    study.merge([row(samples="raw.npz")])
    (found,) = study.rows()
    assert found["samples"] is None and found["notes"]["samples"]


@pytest.mark.parametrize("column", ["trial_key", "load_ms", "engine_json"])
def test_a_row_without_a_column_is_refused(study, row, column):
    short = row()
    del short[column]
    with pytest.raises(StudyError, match=f"lacks the column '{column}'"):
        study.merge([short])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task_fingerprint": "0" * 12}, "'answers' with 000000000000"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"backend": None}, "backend is None"),
        ({"state": "done"}, "state is 'done'"),
        ({"latency_ms_p50": "fast"}, "latency_ms_p50 is 'fast'"),
        ({"quality": float("nan")}, "quality is nan"),
        ({"notes": []}, "notes is"),
        ({"steps": "none"}, "steps is 'none'"),
        ({"engine_json": "streams=2"}, "engine_json is 'streams=2'"),
        ({"engine_json": None}, "engine_json is None"),
    ],
)
def test_rows_that_do_not_belong_are_refused_and_nothing_is_taken(study, row, change, words):
    with pytest.raises(StudyError, match=words):
        study.merge([row(trial_key="good"), row(**change)])
    assert study.rows() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "Cannot read the rows"),
        ("{}\n{", "line 2 of"),
        ('{"quality": NaN}', "NaN is not a valid number"),
        ("[", "is not a row"),
        ("7", "but 7"),
        ("", "finished row"),
    ],
)
def test_files_that_hold_no_rows_are_told(study, tmp_path, text, words):
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StudyError, match=words):
        study.merge(path)


def test_other_things_are_no_rows(study, tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match="not a text file"):
        study.merge(tmp_path / "b")
    for wrong in (5, {"a": 1}, b"x"):
        with pytest.raises(StudyError, match="must be the path of a file"):
            study.merge(wrong)


def test_machines_are_never_compared(row):
    here = row(fingerprint="here", machine="this one", quality_drop=0.0, quality=0.9, latency_ms_p50=9.0)
    there = row(quality_drop=0.0, quality=0.9, latency_ms_p50=1.0)
    front = pareto_rows([here, there], x="latency_ms_p50", y="quality")
    assert [r["fingerprint"] for r in front] == ["f" * 12, "here"]
    assert best_row([here, there], machine="here").row["fingerprint"] == "here"
    elsewhere = best_row([there], machine="here")
    assert "measured on another machine (Neoverse-N1, 4 cores, ffffffffffff)" in elsewhere.reason


def test_rows_without_a_quality_decide_neither_batch_nor_shape_nor_machine(study, row):
    known = {"quality": 0.9, "quality_drop": 0.0, "fingerprint": "here"}
    study.merge([row(trial_key="own", batch_size=8, samples="raw.npz", **known)])
    before = study.best()
    bench = [row(trial_key=f"b{n}", batch_size=n, shape="sequence=9", fingerprint="here") for n in (8, 32)]
    bench += [row(trial_key=f"c{n}", batch_size=n, shape="sequence=8", fingerprint="here") for n in (8, 32)]
    study.merge([*bench, *(row(trial_key=f"e{n}", batch_size=n) for n in range(1, 9))])
    best = study.best()
    assert (best.row["trial_key"], best.met, best.reason) == ("own", True, before.reason)
    assert "both a quality and" in study.best(batch_size=32).reason
    assert len(study.rows()) == 13 and sum(r["recommended"] for r in study.rows()) == 1


def test_several_merges_come_in_the_order_of_one_plan(study, row):
    def rows(size, backends):
        names = [("prune", "prune"), ("float", "float")]
        return [
            row(trial_key=f"{size}{r}{b}", batch_size=size, recipe_id=r, technique=t, backend=b)
            for b in backends
            for r, t in names
        ]

    study.merge(rows(8, ["torch-eager", "onnxruntime"]))
    study.merge(rows(1, ["onnxruntime"]))
    study.merge(rows(32, ["onnxruntime", "torch-eager"]))
    found = [(r["batch_size"], r["recipe_id"], r["backend"]) for r in study.rows()]
    pairs = [(r, b) for r in ("float", "prune") for b in ("torch-eager", "onnxruntime")]
    assert found == [(size, *p) for size in (32, 8) for p in pairs] + [(1, "float", "onnxruntime")] + [
        (1, "prune", "onnxruntime")
    ]


def test_charts_take_machine_and_shape_from_rows_that_were_judged(row):
    from workbench.plots.charts.study.tidy import complete_frame

    own = row(quality=0.9, fingerprint="here", latency_ms_p50=9.0)
    bench = [row(shape="sequence=4", fingerprint=name) for name in ("here", "here", *["there"] * 4)]
    assert complete_frame([own, *bench])["latency_ms_p50"].tolist() == [9.0]


def test_charts_show_one_machine(row):
    from workbench.core.machine import fingerprint_id
    from workbench.plots.charts.study.tidy import complete_frame

    rows = [row(fingerprint=fingerprint_id(), latency_ms_p50=9.0), *[row(trial_key=str(i)) for i in range(3)]]
    assert complete_frame(rows)["latency_ms_p50"].tolist() == [9.0]
    assert complete_frame(rows[1:])["latency_ms_p50"].tolist() == [3.0] * 3


def test_rows_of_one_backend_with_other_options_stand_beside_each_other(study, row):
    options = ["{}", '{"graph_optimization":"none"}']
    study.merge([row(trial_key=str(n), engine_json=text, quality=0.9) for n, text in enumerate(options)])
    assert [r["engine_json"] for r in study.rows()] == options
    assert {r["candidates"] for r in study.rows()} == {2}
