"""The baseline-normalized latency, and the break-even by it."""

import pytest

from workbench.present.findings import break_even_text
from workbench.study.results.relative_latency import (
    COLUMNS,
    break_even,
    column_values,
    relative_latencies,
    with_relative_latency,
)
from workbench.study.results.schema import COLUMNS as ROW_COLUMNS, NUMERIC, new_row


def row(key, latency, speedup=None, *, low=None, high=None, **more):
    figures = {"latency_ms_p50": latency, "speedup": speedup, "speedup_low": low, "speedup_high": high}
    return new_row(trial_key=key, state="complete", batch_size=32, fingerprint="here", **{**figures, **more})


ONE = row("one", 20.0, 1.0, baseline=True, threads=1, latency_ms_low=19.0, latency_ms_high=21.0)
FOUR = row("four", 8.0, 1.0, baseline=True, threads=4)


def test_it_is_the_latency_of_the_named_baseline_over_the_speedup():
    variant = row("v", 4.0, 2.0, low=1.6, high=2.5, threads=4, baseline_key="four")
    on_one = row("w", 4.0, 2.0, low=1.6, high=2.5, threads=4, baseline_key="one")
    found = relative_latencies([ONE, FOUR, variant, on_one])
    assert found[2][:3] == pytest.approx((4.0, 3.2, 5.0))
    assert found[3][:3] == pytest.approx((10.0, 8.0, 12.5))
    assert found[0][:3] == (20.0, 19.0, 21.0) and found[1][:3] == (8.0, None, None)


def test_without_a_key_it_is_the_baseline_of_the_operating_point_with_as_many_threads():
    variant = row("v", 4.0, 2.0, threads=1)
    for rows in ([ONE, FOUR, variant], [FOUR, ONE, variant]):
        assert relative_latencies(rows)[2].ms == 10.0
    assert relative_latencies([FOUR, variant])[1].ms == 4.0
    elsewhere = [{**FOUR, "fingerprint": "there"}, {**FOUR, "batch_size": 1}, {**FOUR, "shape": "sequence=8"}]
    for base in elsewhere:
        assert relative_latencies([base, variant])[1].note


def test_a_named_baseline_that_is_not_there_and_other_threads_give_the_nearest():
    gone = row("v", 4.0, 2.0, threads=4, baseline_key="gone")
    assert relative_latencies([ONE, FOUR, gone])[2].ms == 4.0  # of FOUR, with as many threads
    two = row("w", 4.0, 2.0, threads=2)
    assert relative_latencies([ONE, two])[1].ms == 10.0
    assert relative_latencies([ONE, {**FOUR, "trial_key": None}, two])[2].ms == 4.0  # the last of the place


def test_a_figure_that_is_not_normalized_has_a_note():
    alone, unknown = row("v", 4.0, 2.0, latency_ms_low=3.9), row("w", 5.0)
    found = with_relative_latency([alone])[0]
    assert [found[name] for name in COLUMNS] == [4.0, 3.9, None] and "latency_ms_rel" in found["notes"]
    of_unknown = with_relative_latency([ONE, unknown])[1]
    assert of_unknown["latency_ms_rel"] == 5.0 and of_unknown["notes"]["latency_ms_rel"]
    assert "latency_ms_rel" not in with_relative_latency([ONE])[0]["notes"]
    waiting = with_relative_latency([row("x", None)])[0]
    assert waiting["latency_ms_rel"] is None and waiting["notes"] == {}


def test_rows_keep_what_they_have_and_the_given_ones_stay_as_they_are():
    variant = row("v", 4.0, 2.0, threads=1)
    (filled,) = with_relative_latency([ONE, variant])[1:]
    assert filled["latency_ms_rel"] == 10.0 and variant["latency_ms_rel"] is None
    assert with_relative_latency([filled])[0] == filled  # its baseline was filtered out meanwhile
    assert column_values([ONE, variant], "latency_ms_rel") == [20.0, 10.0]
    assert column_values([ONE, variant], "latency_ms_p50") == [20.0, 4.0]


def test_the_columns_are_numbers_of_a_row():
    assert set(COLUMNS) <= set(ROW_COLUMNS) and set(COLUMNS) <= set(NUMERIC)
    assert {"final_rank", "page_faults_per_call", "context_switches_per_call"} <= set(NUMERIC)
    assert not {"reference", "estimator", "allocator", "fidelity"} & set(NUMERIC)


ROW = {"latency_ms_rel": 2.0, "speedup": 5.0, "prepare_s": 80.0, "batch_size": 32, "verdict": "faster"}


def test_the_seconds_spent_are_those_saved_by_so_many_calls():
    result = break_even(ROW)
    assert result.saved_ms == 8.0 and result.calls == 10_000
    assert result.calls * result.saved_ms / 1e3 == pytest.approx(result.spent_s)
    assert break_even_text(ROW) == ("Break-even after 320 k samples: 80.0 s to build, 8.00 ms saved per batch of 32.")


def test_what_came_from_the_cache_counts_with_what_it_took_once():
    steps = [{"seconds": 300.0}, {"seconds": 2.0}]
    assert break_even({**ROW, "steps": steps}).spent_s == 302.0
    assert break_even({**ROW, "steps": [{"seconds": 3.0}]}).spent_s == 80.0


@pytest.mark.parametrize(
    "change",
    [{"verdict": "undecided"}, {"verdict": "slower"}, {"baseline": True}, {"speedup": None}, {"prepare_s": None}],
)
def test_what_is_not_surely_faster_never_pays(change):
    assert break_even({**ROW, **change}) is None
    assert break_even_text({**ROW, **change}) == ""
