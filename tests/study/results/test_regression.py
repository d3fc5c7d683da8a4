"""Two states of a study beside each other."""

from __future__ import annotations

import pytest

from workbench.core.errors import StudyError
from workbench.study.results.regression import compare_rows

ROW = {
    "recipe": "prune",
    "recipe_id": "1",
    "backend": "openvino",
    "batch_size": 32,
    "shape": "",
    "threads": 2,
    "engine_json": "{}",
    "state": "complete",
    "baseline": False,
    "task": "digits",
    "task_fingerprint": "t1",
    "fingerprint": "f1",
    "machine": "a machine",
    "speedup": 4.0,
    "speedup_low": 3.9,
    "speedup_high": 4.1,
    "noise_floor": 0.02,
    "quality_drop_low": -0.002,
    "quality_drop_high": 0.006,
    "size_mib": 2.0,
    "peak_rss_mib": 100.0,
}
BASE = {
    **ROW,
    "recipe": "float",
    "recipe_id": "0",
    "backend": "torch-eager",
    "baseline": True,
    "latency_ms_p50": 10.0,
    "latency_ms_low": 9.9,
    "latency_ms_high": 10.1,
}


def test_equal_states_have_no_change():
    found = compare_rows([BASE, ROW], [BASE, ROW])
    assert (found.compared, found.changes, found.missing, found.added, found.notes) == (2, (), (), (), ())
    assert str(found) == "2 trials compared: 0 changes for the worse, 0 for the better."


def test_a_slower_trial_is_worse_and_a_faster_one_better():
    slow = {**ROW, "speedup": 3.0, "speedup_low": 2.9, "speedup_high": 3.1}
    (change,) = compare_rows([ROW], [slow]).worse
    assert change.kind == "speed" and "4.00x (3.90 to 4.10) before, 3.00x (2.90 to 3.10) now" in change.words
    (change,) = compare_rows([slow], [ROW]).changes
    assert not change.worse


def test_what_the_noise_of_both_explains_is_no_change():
    near = {**ROW, "speedup": 3.75, "speedup_low": 3.65, "speedup_high": 3.85}
    assert compare_rows([ROW], [near]).changes == ()
    sure = {"noise_floor": 0.0}
    assert len(compare_rows([{**ROW, **sure}], [{**near, **sure}]).worse) == 1


def test_the_baseline_is_compared_by_its_latency_where_more_is_worse():
    slow = {**BASE, "latency_ms_p50": 12.0, "latency_ms_low": 11.8, "latency_ms_high": 12.2}
    (change,) = compare_rows([BASE], [slow]).worse
    assert "latency of the baseline 10.00 ms" in change.words


def test_quality_changes_where_the_intervals_are_apart():
    worse = {**ROW, "quality_drop_low": 0.01, "quality_drop_high": 0.03}
    (change,) = compare_rows([ROW], [worse]).worse
    assert change.kind == "quality"
    assert compare_rows([ROW], [{**ROW, "quality_drop_low": 0.005, "quality_drop_high": 0.02}]).changes == ()


def test_size_and_memory_change_beyond_their_own_limits():
    larger = {**ROW, "size_mib": 2.1, "peak_rss_mib": 105.0}
    (change,) = compare_rows([ROW], [larger]).worse
    assert "size 2 MiB before, 2.1 MiB now (+5.0 %)" in change.words
    assert len(compare_rows([ROW], [{**ROW, "peak_rss_mib": 150.0}]).worse) == 1


def test_trials_of_one_side_and_unfinished_ones_are_listed_or_left_out():
    other = {**ROW, "backend": "onnxruntime"}
    failed = {**ROW, "backend": "torch-eager", "state": "failed"}
    found = compare_rows([ROW, other, failed], [ROW, {**ROW, "batch_size": 1}, failed])
    assert found.missing == ("prune on onnxruntime, batch 32",)
    assert found.added == ("prune on openvino, batch 1",)
    assert "gone: prune on onnxruntime" in str(found) and "new: prune on openvino" in str(found)


def test_engine_options_make_another_trial():
    tuned = {**ROW, "engine_json": '{"precision":"bfloat16"}', "speedup": 8.0, "speedup_low": 7.9, "speedup_high": 8.1}
    found = compare_rows([ROW], [ROW, tuned])
    assert found.changes == () and found.added == ("prune on openvino (precision=bfloat16), batch 32",)


def test_other_versions_and_other_data_are_noted():
    found = compare_rows([ROW], [{**ROW, "fingerprint": "f2", "task_fingerprint": "t2"}])
    assert "versions of libraries" in found.notes[0] and "f1 before, f2 now" in found.notes[0]
    assert "data, weights or version" in found.notes[1]


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"machine": "another"}, "two machines are never compared"),
        ({"task": "other"}, "different tasks"),
        ({"threads": 4}, "no finished trial in common"),
        ({"state": "failed"}, "1 finished trials before, 0 now"),
    ],
)
def test_what_cannot_be_compared_is_refused(after, words):
    with pytest.raises(StudyError, match=words):
        compare_rows([ROW], [{**ROW, **after}])


def test_figures_that_were_not_measured_give_no_change():
    unknown = {**ROW, "speedup_low": None, "quality_drop_low": None, "size_mib": None, "peak_rss_mib": None}
    assert compare_rows([ROW], [unknown]).changes == ()


def test_a_trial_that_is_gone_does_not_hold():
    other = {**ROW, "recipe": "int8", "recipe_id": "2"}
    gone = compare_rows([ROW, other], [ROW, {**other, "state": "failed"}])
    assert gone.worse == () and len(gone.missing) == 1 and not gone.holds
    assert compare_rows([ROW], [ROW, other]).holds


def test_a_trial_that_fails_since_an_upgrade_is_gone_although_its_old_row_is_there():
    failed = {**ROW, "fingerprint": "f2", "state": "failed"}
    other = {**ROW, "recipe": "int8", "recipe_id": "2"}
    found = compare_rows([ROW, other], [ROW, failed, other, {**other, "fingerprint": "f2"}])
    assert found.missing == ("prune on openvino, batch 32",) and not found.holds and found.compared == 1
    assert "rows of an earlier version on the same machine were left out: 0 before, 2 now" in found.notes


def test_each_machine_stands_against_itself():
    there = {**ROW, "machine": "another", "fingerprint": "g1", "speedup": None, "speedup_low": None}
    slow = {**ROW, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    for after in ([slow, there], [there, slow]):
        found = compare_rows([ROW], after)
        assert len(found.worse) == 1 and "only one of the two has rows of another" in found.notes[0]
        assert len(compare_rows([ROW, there], after).worse) == 1


def test_quality_without_an_interval_is_compared_by_the_figure():
    known = {"quality": 0.95, "quality_drop": 0.01, "quality_drop_low": None, "quality_drop_high": None}
    before = {**ROW, **known}
    (change,) = compare_rows([before], [{**before, "quality": 0.45, "quality_drop": 0.51}]).worse
    assert change.words == "quality drop 0.01 before, 0.51 now"
    assert compare_rows([before], [{**before, "quality": 0.948, "quality_drop": 0.012}]).changes == ()
    (change,) = compare_rows([{**before, "quality_drop": 0.51}], [before]).changes
    assert not change.worse
    (change,) = compare_rows([before], [{**before, "quality": None, "notes": {"quality": "The metric is nan."}}]).worse
    assert change.words == "quality 0.95 before, unknown now: The metric is nan."
    base = {**BASE, **known, "quality_drop": 0.0, "quality_drop_low": 0.0, "quality_drop_high": 0.0}
    (change,) = compare_rows([base], [{**base, "quality": 0.6}]).worse
    assert change.words == "quality 0.95 before, 0.6 now"
