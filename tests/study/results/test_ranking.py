"""Best and Pareto against answers worked out by hand."""

import itertools

import pytest

from workbench.core.errors import StudyError
from workbench.study.results.ranking import (
    best_row,
    mark_recommended,
    marked,
    one_machine,
    pareto_rows,
    ranked,
    table_order,
    usual_shape,
)
from workbench.study.results.schema import COLUMNS, new_row
from workbench.study.results.winner import TIED


def row(name, latency, drop, *, batch=32, state="complete", baseline=False, machine="here", **more):
    return new_row(
        recipe=name,
        backend="openvino",
        batch_size=batch,
        state=state,
        latency_ms_p50=latency,
        quality=None if drop is None else 0.95 - drop,
        quality_drop=drop,
        speedup=20.0 / latency,
        verdict="faster",
        baseline=baseline,
        fingerprint=machine,
        **more,
    )


ROWS = [
    row("float", 20.0, 0.0, baseline=True),
    row("a", 6.0, 0.004),
    row("b", 4.0, 0.0101),
    row("c", 5.0, 0.010),
    row("d", 3.0, 0.2),
    row("small batch", 0.5, 0.0, batch=1),
    row("broken", 0.1, 0.0, state="failed"),
    row("unknown quality", 0.1, None),
]


def test_the_fastest_within_the_limit_wins_limit_included():
    best = best_row(ROWS, quality_drop=0.01)
    assert (best.row["recipe"], best.met, best.candidates) == ("c", True, 5)
    assert "3 variants within a drop of 0.01 (5 compared, batch 32)" in best.reason
    assert "4x speedup" in best.reason


def test_rows_timed_minutes_apart_are_ranked_by_the_baseline_normalized_latency():
    base = row("float", 20.0, 0.0, baseline=True)
    early = {**row("early", 9.0, 0.0), "speedup": 2.6}  # the machine was slow then, the baseline too
    late = {**row("late", 8.0, 0.0), "speedup": 2.1}
    rows = [base, late, early]
    assert best_row(rows).row["recipe"] == "early"
    assert [r["recipe"] for r in pareto_rows(rows, x="latency_ms_rel", y="quality", batch_size=32)] == ["early"]
    assert [r["recipe"] for r in pareto_rows(rows, x="latency_ms_p50", y="quality", batch_size=32)] == ["late"]
    assert best_row(rows, minimize="latency_ms_p50").row["recipe"] == "late"


def test_a_wider_limit_and_another_batch_size_change_the_answer():
    assert best_row(ROWS, quality_drop=0.3).row["recipe"] == "d"
    assert best_row(ROWS, quality_drop=0.01, batch_size=1).row["recipe"] == "small batch"


def test_another_column_can_be_minimized():
    rows = [row("a", 6.0, 0.0, size_mib=3.0), row("b", 4.0, 0.0, size_mib=5.0), row("c", 3.0, 0.0)]
    assert best_row(rows, minimize="size_mib").row["recipe"] == "a"


def test_nothing_within_the_limit_gives_the_nearest_miss_and_says_so():
    best = best_row([row("a", 6.0, 0.05), row("b", 9.0, 0.03)], quality_drop=0.01)
    assert (best.row["recipe"], best.met) == ("b", False)
    assert best.reason.startswith("Nothing met the goal")
    assert "0.03" in best.reason


def test_no_finished_trial_gives_no_row_but_a_reason():
    best = best_row([row("a", 1.0, 0.0, state="waiting")])
    assert (best.row, best.met, best.reason) == (None, False, "No trial has finished yet.")


def test_what_is_within_the_limit_for_certain_is_named_beside_a_winner_that_is_not():
    daring = {**row("daring", 4.0, 0.009), "quality_drop_low": 0.001, "quality_drop_high": 0.015}
    sure = {**row("sure", 5.0, 0.001), "quality_drop_low": 0.0, "quality_drop_high": 0.002}
    best = best_row([row("float", 20.0, 0.0, baseline=True), daring, sure])
    assert best.row["recipe"] == "daring" and best.reason.startswith("daring on openvino: the fastest")
    assert "Within the limit by its whole 95 % CI: sure on openvino, 4x speedup" in best.reason
    assert "whole 95 % CI" not in best_row([daring]).reason


def test_the_baseline_may_win_and_the_reason_says_what_that_means():
    best = best_row([row("float", 20.0, 0.0, baseline=True), row("slow", 30.0, 0.0)])
    assert best.row["baseline"] and "the baseline itself" in best.reason


def test_an_interval_that_reaches_beyond_the_limit_is_said():
    best = best_row([row("a", 6.0, 0.004, quality_drop_low=-0.002, quality_drop_high=0.013)])
    assert best.met and "0.013, beyond the limit" in best.reason


def test_an_undecided_verdict_comes_with_its_reason():
    shaken = {**row("a", 6.0, 0.0), "verdict": "undecided", "speedup_low": 2.4, "speedup_high": 2.6}
    shaken["notes"] = {"verdict": "Two processes of the baseline were 40% apart (A-A)."}
    reason = best_row([ROWS[0], shaken]).reason
    assert "not decided (95 % CI 2.40-2.60). Two processes of the baseline were 40% apart (A-A)." in reason


def test_timings_of_two_machines_are_never_mixed():
    rows = [row("a", 6.0, 0.0), row("b", 5.0, 0.0), row("c", 1.0, 0.0, machine="there")]
    assert best_row(rows, machine="here").row["recipe"] == "b"
    assert best_row(rows, machine="there").row["recipe"] == "c"
    elsewhere = best_row(rows, machine="nowhere")
    assert elsewhere.row["recipe"] == "b" and "another machine" in elsewhere.reason


def test_exactly_one_row_is_marked_and_none_when_the_goal_is_missed():
    rows = mark_recommended(ROWS, best_row(ROWS))
    assert [r["recipe"] for r in rows if r["recommended"]] == ["c"]
    assert (marked(rows).row, marked(rows).met, marked(rows).candidates) == (rows[3], True, len(rows))
    assert marked(rows).reason == "Its row is marked."
    missed = [row("a", 6.0, 0.05)]
    rows = mark_recommended(missed, best_row(missed))
    assert not any(r["recommended"] for r in rows)
    assert (marked(rows).row, marked(rows).met, marked(rows).candidates) == (None, False, 1)
    assert marked(rows).reason.startswith("Nothing met the goal")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minimize": "latency"}, "Did you mean 'latency_ms_"),
        ({"minimize": "quality"}, "better if higher"),
        ({"quality_drop": -0.1}, "at least 0"),
        ({"quality_drop": float("nan")}, "at least 0"),
        ({"batch_size": 7}, "Measured: 1, 32"),
    ],
)
def test_questions_without_an_answer_are_refused_in_words(options, words):
    with pytest.raises(StudyError, match=words):
        best_row(ROWS, **options)


def test_pareto_front_equals_the_definition_on_every_subset_of_a_grid():
    points = [(1.0, 0.5), (2.0, 0.8), (2.0, 0.7), (3.0, 0.8), (4.0, 0.9), (4.0, 0.9)]
    for chosen in itertools.combinations(points, 4):
        rows = [
            new_row(recipe=str(i), state="complete", latency_ms_p50=x, quality=y) for i, (x, y) in enumerate(chosen)
        ]
        front = {r["recipe"] for r in pareto_rows(rows, x="latency_ms_p50", y="quality")}
        by_hand = {
            str(i)
            for i, (x, y) in enumerate(chosen)
            if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in chosen)
        }
        assert front == by_hand


def test_pareto_knows_which_way_is_better_and_leaves_unfinished_rows_out():
    rows = [*ROWS, row("more", 10.0, 0.0, throughput_per_s=1.0)]
    front = pareto_rows(rows, x="latency_ms_p50", y="quality", batch_size=32)
    assert [r["recipe"] for r in front] == ["d", "b", "c", "a", "more"]
    with pytest.raises(StudyError, match="numeric column"):
        pareto_rows(rows, x="recipe", y="quality")
    fast = [row(name, 10.0, drop, throughput_per_s=pace) for name, pace, drop in [("a", 3.0, 0.0), ("b", 5.0, 0.1)]]
    assert [r["recipe"] for r in pareto_rows(fast, x="throughput_per_s", y="quality")] == ["a", "b"]
    assert [r["recipe"] for r in pareto_rows(fast[::-1], x="throughput_per_s", y="quality")] == ["a", "b"]


def test_a_new_row_has_every_column():
    assert tuple(new_row()) == COLUMNS


def test_options_of_an_engine_are_named_in_the_answer():
    best = best_row([row("a", 6.0, 0.0, engine_json='{"precision":"bfloat16"}')])
    assert best.reason.startswith("a on openvino (precision=bfloat16): the fastest")


def test_each_row_is_ranked_against_the_baseline_it_was_timed_with():
    one = row("float", 100.0, 0.0, baseline=True, threads=1, trial_key="one")
    two = row("float", 55.0, 0.0, baseline=True, threads=2, trial_key="two")
    slow = {**row("x", 18.0, 0.0, threads=1), "speedup": 3.3}
    fast = {**row("y", 20.0, 0.0, threads=2), "speedup": 2.7}
    for rows in ([one, two, slow, fast], [two, one, slow, fast]):
        assert best_row(rows).row["recipe"] == "y"
    assert best_row([one, two, {**slow, "baseline_key": "two"}, fast]).row["recipe"] == "x"


def interval(name, latency, low, high, **more):
    """Return a row with the 95 % CI of its latency, beside a baseline of 20 ms."""
    return {**row(name, latency, 0.0, **more), "speedup_low": 20.0 / high, "speedup_high": 20.0 / low}


BASE = row("float", 20.0, 0.0, baseline=True, size_mib=4.0)


def test_of_rows_that_are_not_told_apart_the_smaller_one_wins():
    large, small = interval("large", 4.0, 3.7, 4.4, size_mib=3.0), interval("small", 4.2, 3.9, 4.5, size_mib=1.0)
    best = best_row([BASE, large, small])
    assert best.row is small and best.ties == (large,) and "among the fastest" in best.reason
    apart = interval("small", 4.5, 4.45, 4.6, size_mib=1.0)
    assert best_row([BASE, large, apart]).row is large
    assert best_row([BASE, large, apart]).ties == ()
    equal = interval("equal", 4.2, 3.9, 4.5, size_mib=3.01)
    best = best_row([BASE, large, equal])
    assert best.row is large and best.ties == (equal,)


def test_of_rows_that_are_not_told_apart_one_surely_within_the_limit_wins():
    sure = interval("sure", 4.0, 3.7, 4.4, size_mib=3.0, quality_drop_high=0.002)
    unsure = interval("unsure", 4.1, 3.8, 4.5, size_mib=1.0, quality_drop_high=0.03)
    best = best_row([BASE, sure, unsure], quality_drop=0.01)
    assert best.row is sure and best.ties == (unsure,) and "within the limit by its whole" in best.reason
    assert best_row([BASE, sure, unsure], quality_drop=0.05).row is unsure


def test_an_undecided_row_is_tied_with_the_baseline():
    undecided = {**interval("a", 19.0, 15.0, 25.0, size_mib=8.0), "verdict": "undecided"}
    assert best_row([BASE, undecided]).row is BASE
    assert best_row([BASE, {**undecided, "size_mib": 1.0}]).row["recipe"] == "a"
    assert best_row([BASE, {**undecided, "verdict": "faster"}]).row["recipe"] == "a"


def test_the_head_to_head_timing_of_finalists_decides():
    first = interval("first", 4.0, 3.9, 4.1, final_rank=2)
    second = interval("second", 4.2, 4.1, 4.3, final_rank=1)
    first["notes"] = {"final_rank": "Slower than second in head-to-head timing."}
    other = interval("other", 4.1, 3.9, 4.3)
    best = best_row([BASE, first, second, other])
    assert best.row is second and "2 finalists" in best.reason
    assert "Second, first on openvino: Slower than second in head-to-head timing." in best.reason
    assert "openvino: the fastest of" in best.reason
    level = {**first, "notes": {"final_rank": f"{TIED} second in head-to-head timing."}}
    assert "openvino: among the fastest of" in best_row([BASE, level, second, other]).reason
    lossy = {**second, "quality_drop": 0.5}
    assert best_row([BASE, first, lossy, other]).row is first
    assert best_row([BASE, first, second, other], minimize="size_mib").row is not None
    later = interval("later", 2.0, 1.9, 2.1)  # found after the finals, and told apart from their winner
    assert best_row([BASE, first, second, later]).row is later


def test_reference_rows_are_never_ranked_and_stand_under_their_baseline():
    common = row("float", 3.0, 0.0, reference="as commonly started")
    compiled = row("float", 2.0, 0.0, reference="torch.compile")
    rows = [common, ROWS[1], compiled, BASE, ROWS[3]]
    best = best_row(rows)
    assert best.row["recipe"] == "c" and best.candidates == 3
    front = pareto_rows(rows, x="latency_ms_rel", y="quality")
    assert all(r["reference"] is None for r in front)
    order = [(r["recipe"], r["reference"]) for r in table_order(rows, "latency_ms_rel")]
    kept = [("float", None), ("float", "as commonly started"), ("float", "torch.compile")]
    assert order == [("c", None), ("a", None), *kept]
    assert best_row([common]).row is None
    alone = [common, ROWS[1]]  # its baseline is not here: it comes last
    assert [r["reference"] for r in table_order(alone, "latency_ms_rel")] == [None, "as commonly started"]


def test_rows_of_a_survey_are_never_recommended():
    survey = row("quick", 1.0, 0.0, fidelity="survey")
    assert best_row([BASE, survey, ROWS[1]]).row["recipe"] == "a"
    assert pareto_rows([BASE, survey], x="latency_ms_rel", y="quality") == [BASE]
    alone = best_row([survey])
    assert alone.row is None and "full fidelity" in alone.reason


def test_more_agreement_is_better():
    rows = [row("a", 4.0, 0.0, agreement=0.9), row("b", 5.0, 0.0, agreement=0.99), row("c", 6.0, 0.0, agreement=0.95)]
    assert [r["recipe"] for r in pareto_rows(rows, x="latency_ms_p50", y="agreement")] == ["a", "b"]
    with pytest.raises(StudyError, match="agreement is better if higher"):
        best_row(rows, minimize="agreement")


def test_the_shape_of_most_rows_is_ranked_unless_another_is_asked_for():
    rows = [
        row("a", 4.0, 0.0, shape="length=8"),
        row("b", 6.0, 0.0, shape="length=64"),
        row("c", 7.0, 0.0, shape="length=64"),
    ]
    usual = best_row(rows)
    assert (usual.row["recipe"], usual.candidates) == ("b", 2) and "batch 32, length=64" in usual.reason
    other = best_row(rows, shape="length=8")
    assert (other.row["recipe"], other.candidates) == ("a", 1) and "length=8" in other.reason
    with pytest.raises(StudyError, match=r"'length=9'.*Measured: 'length=8', 'length=64'\."):
        best_row(rows, shape="length=9")
    unjudged = [row("d", 1.0, None, shape="length=1"), row("e", 1.0, None, shape="length=1"), rows[0]]
    assert best_row(unjudged).row["recipe"] == "a"  # rows without a quality do not choose the shape
    assert usual_shape(rows) == "length=64" and usual_shape(rows[:2]) == "length=8" and usual_shape([]) == ""


def test_rows_without_the_figures_are_counted_out_with_a_reason():
    unknown = best_row([row("a", 4.0, None)])
    assert (unknown.row, unknown.met, unknown.candidates) == (None, False, 0)
    assert "batch 32 has both a quality and" in unknown.reason
    nothing = best_row([row("a", 4.0, 0.0, state="failed")])
    assert (nothing.row, nothing.met, nothing.candidates) == (None, False, 0) and "finished yet" in nothing.reason
    missed = best_row([row("a", 6.0, 0.05), row("b", 9.0, 0.03)], quality_drop=0)
    assert (missed.met, missed.candidates) == (False, 2)


def test_the_limit_allows_for_float32_at_the_size_of_the_metric():
    large = {**row("large", 4.0, 1.0 + 2e-4), "quality": 1000.0}
    assert best_row([large], quality_drop=1.0).met
    assert not best_row([{**large, "quality": 10.0}], quality_drop=1.0).met


def test_the_reason_names_what_was_minimized_and_the_evidence():
    sure = row("sure", 5.0, 0.002, size_mib=3.0, quality_drop_low=0.0, quality_drop_high=0.01)
    wide = row("wide", 4.0, 0.008123456, size_mib=2.0, quality_drop_low=0.001, quality_drop_high=0.02)
    best = best_row([wide, sure], minimize="size_mib")
    assert best.row["recipe"] == "wide" and "the smallest size_mib of 2 variants" in best.reason
    assert "drop 0.0081 (95 % CI 0.001 to 0.02), 5x speedup" in best.reason
    assert "95 % CI of the drop reaches 0.02, beyond the limit" in best.reason
    assert "Within the limit by its whole 95 % CI: sure on openvino" in best.reason
    alone = best_row([sure], minimize="size_mib").reason
    assert "beyond the limit" not in alone and "whole 95 %" not in alone
    half_known = best_row([{**sure, "quality_drop_high": None}], minimize="size_mib").reason
    assert "95 % CI" not in half_known.split("speedup")[0]
    kept = best_row([{**row("float", 4.0, 0.0, baseline=True), "verdict": "same"}]).reason
    assert "speedup" not in kept and "is the baseline itself" in kept
    undecided = best_row([{**row("a", 4.0, 0.0, notes={"verdict": "Noise floor 9 %."}), "verdict": "undecided"}]).reason
    assert "drop 0, " in undecided and "Noise floor 9 %." in undecided


def test_equal_rows_are_ordered_by_their_drop_and_unknown_ones_come_last():
    rows = [row("none", 4.0, None), row("more", 4.0, 0.02), row("less", 4.0, -0.01), row("first", 3.0, 0.5)]
    names = [r["recipe"] for r in ranked([new_row(recipe="unknown", state="complete"), *rows], "latency_ms_p50")]
    assert names == ["first", "less", "more", "none", "unknown"]


def test_the_machine_of_most_rows_is_taken_if_the_preferred_one_has_none():
    rows = [row("a", 4.0, 0.0, machine="x"), row("b", 5.0, 0.0, machine="y"), row("c", 6.0, 0.0, machine="y")]
    assert [r["recipe"] for r in one_machine(rows, None)[0]] == ["b", "c"] and one_machine(rows, None)[1] == ""
    assert [r["recipe"] for r in one_machine(rows, "x")[0]] == ["a"] and one_machine(rows, "x")[1] == ""
    kept, sentence = one_machine(rows, "z")
    assert [r["recipe"] for r in kept] == ["b", "c"] and "another machine (y)" in sentence
    named = [{**r, "machine": "EPYC"} for r in rows]
    assert "another machine (EPYC, y)" in one_machine(named, "z")[1]
    assert one_machine([], "x") == ([], "")
