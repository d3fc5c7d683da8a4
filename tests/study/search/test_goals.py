"""Goals, the figures to make small, and the row that answers: against cases worked out by hand."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.study.results.quality_limits import hopeless
from workbench.study.results.schema import new_row
from workbench.study.search.goals import Objective, misses, nearest_misses, objective_for, recommend


def row(name, latency, drop, *, batch=8, size=1.0, rss=50.0, state="complete", baseline=False, **more):
    known = {"notes": {"peak_rss_mib": "not here"}, "fingerprint": "here", "trial_key": f"{name}{batch}", **more}
    if latency is not None:
        known |= {"throughput_per_s": 1e3 * batch / latency, "speedup": 20.0 / latency}
    known |= {"quality": 0.9, "quality_drop": drop, "validation_drop": drop, "latency_ms_p50": latency}
    known |= {"size_mib": size, "peak_rss_mib": rss, "verdict": "faster"}
    return new_row(
        recipe=name, backend="openvino", batch_size=batch, state=state, baseline=baseline, **{**known, **more}
    )


BASE = row("float", 20.0, 0.0, baseline=True, size=4.0, rss=200.0)
ROWS = [BASE, row("a", 6.0, 0.004, size=2.0), row("b", 4.0, 0.02), row("c", 5.0, 0.001, size=3.0, rss=90.0)]


def asked(figures=("latency_ms_rel",), sizes=(8,), **goals):
    return Objective(wb.Goals(**goals), figures, sizes)


@pytest.mark.parametrize(
    ("goals", "figures", "winner"),
    [
        ({}, ("latency_ms_rel",), "c"),
        ({"max_quality_drop": 0.02}, ("latency_ms_rel",), "b"),
        ({"max_size_mib": 2.0}, ("latency_ms_rel",), "a"),
        ({"max_peak_rss_mib": 60.0}, ("latency_ms_rel",), "a"),
        ({"max_quality_drop": 0.0}, ("latency_ms_rel",), "float"),
        ({}, ("size_mib",), "a"),
        ({}, ("throughput_per_s",), "c"),
        ({"max_quality_drop": 1.0}, ("quality_drop",), "float"),
    ],
)
def test_exactly_one_row_holds_all_goals_and_is_first_in_the_figure(goals, figures, winner):
    best = recommend(ROWS, asked(figures, **goals))
    assert best.met and best.row["recipe"] == winner and best.reason.startswith(f"{winner} on openvino")
    assert "meet the goals (drop at most" in best.reason and best.candidates == 4


def test_the_limit_itself_holds_and_of_equals_the_smaller_drop_wins():
    rows = [row("x", 5.0, 0.01), row("y", 5.0, 0.002)]
    assert recommend(rows, asked()).row["recipe"] == "y"
    assert recommend(rows[:1], asked()).met


def test_rows_timed_minutes_apart_are_compared_by_what_was_timed_beside_them():
    early = row("early", 9.0, 0.0, speedup=2.5)  # the machine was slow then, and the baseline too
    late = row("late", 8.4, 0.0, speedup=2.0)
    assert recommend([BASE, late, early], asked()).row["recipe"] == "early"
    assert recommend([BASE, late, early], asked(("throughput_per_s",))).row["recipe"] == "early"
    assert asked().values(early, BASE) == [8.0] and asked(("throughput_per_s",)).values(early, BASE) == [1000.0]


def test_a_goal_for_the_latency_is_held_by_what_rows_are_compared_by():
    slow_moment = row("early", 9.0, 0.0, speedup=2.5)  # 20 / 2.5 = 8 ms beside the baseline's own row
    assert recommend([BASE, slow_moment], asked(max_latency_ms=8.0)).met
    missed = recommend([BASE, slow_moment], asked(max_latency_ms=7.0))
    assert not missed.met and "early on openvino: latency 8 ms instead of 7 ms." in missed.reason


def test_the_interval_of_the_drop_stands_beside_the_drop_alone():
    near = row("x", 5.0, 0.02, quality_drop_low=0.015, quality_drop_high=0.025)
    assert "drop 0.02 (95 % CI 0.015 to 0.025) instead of 0.01." in recommend([near], asked()).reason
    assert "interval" not in recommend([near], asked(max_quality_drop=0.1, max_latency_ms=1.0)).reason


def test_nothing_met_names_the_nearest_and_the_nearest_but_for_each_goal():
    goals = {"max_quality_drop": 0.01, "max_latency_ms": 4.5, "max_size_mib": 2.2}
    best = recommend(ROWS[1:], asked(**goals))
    assert (best.row["recipe"], best.met) == ("a", False)  # (6 - 4.5) / 4.5 is less than b's and c's
    assert best.reason.startswith(
        "Nothing met the goals (drop at most 0.01, latency at most 4.5 ms, size at most 2.2 MiB)"
    )
    assert "The nearest is a on openvino: latency 6 ms instead of 4.5 ms." in best.reason
    assert "Except for the drop, b on openvino meets every goal: drop 0.02 instead of 0.01." in best.reason
    near = nearest_misses(ROWS[1:], wb.Goals(**goals))
    assert {name: found["recipe"] for name, found in near.items()} == {"max_quality_drop": "b", "max_latency_ms": "a"}


def test_what_was_not_measured_holds_no_goal():
    best = recommend([row("x", 5.0, 0.0, rss=None)], asked(max_peak_rss_mib=60.0))
    assert not best.met and "peak memory unknown instead of 60 MiB" in best.reason
    assert recommend([row("x", 5.0, 0.0, rss=None)], asked()).met


def test_rows_of_another_batch_size_or_state_or_machine_or_without_quality_take_no_part():
    others = [row("x", 1.0, 0.0, batch=1), row("y", 1.0, 0.0, state="pruned"), row("z", 1.0, None)]
    elsewhere = row("w", 1.0, 0.0, fingerprint="there")
    best = recommend([*ROWS, *others, elsewhere], asked(), machine="here")
    assert best.row["recipe"] == "c" and best.candidates == 4
    nothing = recommend(others, asked())
    assert (nothing.row, nothing.met) == (None, False) and "No finished trial" in nothing.reason


def test_the_nearest_misses_are_of_the_rows_that_are_compared():
    there = row("there", 1.0, 0.0, fingerprint="there", trial_key="t")
    unknown, other = row("unknown", 1.0, None, trial_key="u"), row("other", 1.0, 0.0, shape="x=1", trial_key="o")
    found = misses([*ROWS, there, unknown, other], asked(max_latency_ms=2.0), machine="here")
    assert {name: near["recipe"] for name, near in found.items()} == {"max_latency_ms": "c"}


def test_the_search_sees_the_validation_split_only():
    seen = row("x", 5.0, 0.5)
    seen["validation_drop"] = 0.002
    assert asked(("quality_drop",)).values(seen, BASE) == [0.002]
    goals = wb.Goals()
    assert goals.hold(seen, drop="validation_drop") and not goals.hold(seen)
    assert goals.excess(seen, drop="validation_drop") == {"max_quality_drop": pytest.approx(-0.8)}
    assert asked(("peak_rss_mib",)).values(row("x", 5.0, 0.0, rss=None), BASE) == "peak_rss_mib is unknown: not here"


def test_without_a_figure_it_is_latency_at_one_batch_size_and_throughput_over_several():
    assert objective_for(None, None, None, (8,), shape="").figures == ("latency_ms_rel",)
    several = objective_for(None, None, None, (1, 8), shape="")
    assert several.figures == ("throughput_per_s",) and several.directions == ["maximize"]
    both = objective_for(None, ("latency_ms_rel", "size_mib"), "speedup", (8,), shape="x=1")
    assert both.directions == ["minimize", "minimize", "maximize"]
    assert Objective.from_dict(both.to_dict()) == both


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wb.Goals(max_quality_drop=-0.1), "max_quality_drop must be at least 0"),
        (lambda: wb.Goals(max_quality_drop=True), "must be float, got True"),
        (lambda: wb.Goals(max_latency_ms=0.0), "above 0"),
        (lambda: wb.Goals(max_size_mib=float("nan")), "finite"),
        (lambda: wb.Goals(max_quality_drop=None), "must be float, got None"),
        (lambda: objective_for({"max_size_mib": 1}, None, None, (8,), shape=""), r"goals must be wb.Goals"),
        (lambda: objective_for(None, "latency", None, (8,), shape=""), "Did you mean 'latency_ms_"),
        (lambda: objective_for(None, "throughput_per_s", None, (8,), shape=""), "Write maximize='throughput_per_s'"),
        (lambda: objective_for(None, None, "size_mib", (8,), shape=""), "Write minimize='size_mib'"),
        (lambda: objective_for(None, None, "quality", (8,), shape=""), "minimize='quality_drop'"),
        (lambda: objective_for(None, None, "agreement", (8,), shape=""), "agreement is of the evaluation split"),
        (lambda: objective_for(None, "quality_drop_high", None, (8,), shape=""), "of the evaluation split"),
        (
            lambda: objective_for(None, "latency_ms_rel", None, (1, 8), shape=""),
            "1 to 8 cannot be compared",
        ),
        (lambda: objective_for(None, (1,), None, (8,), shape=""), "minimize must be the name of a column"),
    ],
)
def test_bad_questions_are_refused_in_words(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    ("drop", "limit", "quality", "samples", "expected"),
    [
        (0.05, 0.01, 0.9, 2000, True),
        (0.05, 0.01, 0.9, 50, False),  # two of fifty answers: chance may do that
        (0.5, 0.01, 0.9, 50, True),
        (0.012, 0.01, 0.9, 2000, False),
        (-0.2, 0.0, 0.5, 2000, False),
        (0.03, 0.01, -4.0, 2000, True),  # no share of right answers: beyond twice the limit
        (0.015, 0.01, -4.0, 2000, False),
    ],
)
def test_hopeless_is_what_chance_does_not_explain(drop, limit, quality, samples, expected):
    assert hopeless(drop, limit, quality=quality, samples=samples) is expected
