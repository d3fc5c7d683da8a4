"""The bisection: servers whose capacity is known, a simulated queue as the oracle, every end of a search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import binom
from served import Sleeper

import workbench as wb
from workbench.core.errors import ConfigError, InputError
from workbench.measure.loadgen.server_rate import (
    RateProbe,
    SearchRange,
    probe_result,
    probe_seconds,
    queries_needed,
    search,
)

ROWS = np.zeros((4, 2), np.float32)


def anywhere(rate):
    return True


def capacity(most):
    return lambda rate: RateProbe(rate, rate <= most, result=None)


@given(
    most=st.floats(2.0, 390.0),
    start=st.floats(1.0, 400.0),
    tolerance=st.floats(0.01, 0.5),
)
def test_the_capacity_lies_between_the_two_rates(most, start, tolerance):
    found = search(capacity(most), SearchRange(start, 1.0, 400.0), tolerance=tolerance, room_for=anywhere)
    assert found.held <= most < found.failed <= found.held * (1 + tolerance)
    assert found.ended.startswith("tolerance reached") and len(found.probes) < 200
    assert found.held == max(t.per_s for t in found.probes if t.held)
    assert found.failed == min(t.per_s for t in found.probes if not t.held)


def p99_of_queue(per_s, *, service_ms=4.0, queries=20_000):
    """Return p99 in ms of a single server with a fixed service time and Poisson arrivals (M/D/1), simulated."""
    arrivals = np.cumsum(np.random.default_rng(5).exponential(1e3 / per_s, queries))
    free, latencies = 0.0, []
    for arrival in arrivals:
        free = max(free, arrival) + service_ms
        latencies.append(free - arrival)
    return float(np.quantile(latencies, 0.99))


def test_a_simulated_queue_is_found_where_a_scan_finds_it():
    bound = 20.0
    found = search(
        lambda rate: RateProbe(rate, p99_of_queue(rate) <= bound, result=None),
        SearchRange(125.0, 12.0, 1000.0),
        tolerance=0.01,
        room_for=anywhere,
    )
    scan = [rate for rate in np.arange(100.0, 260.0, 1.0) if p99_of_queue(rate) <= bound]
    assert found.held == pytest.approx(max(scan), rel=0.02)
    assert found.held < 250.0  # the queue serves 250 a second


@pytest.mark.parametrize(
    ("most", "start", "words", "rates"),
    [
        (0.0, 8.0, "1 per s fails (the minimum rate)", [8.0, 4.0, 2.0, 1.0]),
        (1e9, 300.0, "400 per s holds (the maximum rate)", [300.0, 400.0]),
    ],
)
def test_a_search_without_an_edge_says_so(most, start, words, rates):
    found = search(capacity(most), SearchRange(start, 1.0, 400.0), tolerance=0.05, room_for=anywhere)
    assert found.ended == words and [t.per_s for t in found.probes] == rates
    assert (found.held is None) == (most == 0.0) and (found.failed is None) == (most > 1.0)


def test_the_time_ends_a_search_with_what_is_known():
    left = iter([True, True, True, False])
    found = search(capacity(90.0), SearchRange(50.0, 1.0, 400.0), tolerance=0.01, room_for=lambda rate: next(left))
    assert (found.held, found.failed) == (75.0, 112.5) and "time budget" in found.ended
    none = search(capacity(90.0), SearchRange(50.0, 1.0, 400.0), tolerance=0.01, room_for=lambda rate: False)
    assert none.held is None and none.probes == [] and "50 per s" in none.ended


def test_a_rate_that_failed_in_a_disturbed_test_is_tried_again_and_both_are_kept():
    seen = []

    def server(rate):
        seen.append(rate)
        shaken = len(seen) == 1
        return RateProbe(rate, rate <= 100 and not shaken, disturbed=shaken, result=None)

    found = search(server, SearchRange(50.0, 1.0, 400.0), tolerance=0.05, room_for=anywhere)
    assert seen[:3] == [50.0, 50.0, 75.0] and found.held <= 100 < found.failed
    assert [t.held for t in found.probes[:2]] == [False, True]


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("over", [0, 1, 3])
def test_queries_needed_are_those_of_the_binomial(percentile, over):
    n = queries_needed(percentile, over=over)
    assert binom.cdf(over, n, 1 - percentile) <= 0.01 < binom.cdf(over, n - 1, 1 - percentile)


def test_a_probe_lasts_until_loadgen_can_be_sure():
    assert probe_seconds(1e6, 0.99, 2.0) == 2.0
    assert probe_seconds(10.0, 0.99, 2.0) * 10 > queries_needed(0.99, over=3) > 662


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latency_bound_ms": 0}, "latency_bound_ms"),
        ({"percentile": 99}, "such as 0.99"),
        ({"probe_s": 0}, "probe_s"),
        ({"budget_s": -1}, "budget_s"),
        ({"tolerance": 0}, "tolerance"),
        ({"max_wait_ms": "x"}, "max_wait_ms"),
        ({"logs": 1}, "logs"),
    ],
)
def test_wrong_options_are_refused_before_work_starts(options, words):
    engine = Sleeper(1.0)
    with pytest.raises(ConfigError, match=words):
        wb.find_server_rate(engine, ROWS, **{"latency_bound_ms": 5.0, **options})
    with pytest.raises(InputError, match="samples"):
        wb.find_server_rate(engine, [], latency_bound_ms=5.0)
    assert not engine.calls


@pytest.mark.slow
def test_a_bound_below_the_time_of_one_row_is_said(tmp_path):
    rate = wb.find_server_rate(
        Sleeper(2.0), ROWS, latency_bound_ms=1.0, percentile=0.5, probe_s=0.1, logs=tmp_path / "logs"
    )
    assert rate.per_s is None and len({probe.per_s for probe in rate.probes}) == 1
    assert not any(probe.held for probe in rate.probes)  # two where the machine was disturbed
    assert "per s fails" in rate.ended and "a single row takes" in rate.ended
    assert rate.failed_per_s == rate.probes[0].per_s == pytest.approx(0.05 * rate.single_stream.samples_per_s)
    assert "no rate meets p50 within 1 ms" in str(rate) and "not an MLPerf result" in rate.notes[-1]
    assert {path.name.split("-")[0] for path in (tmp_path / "logs").iterdir()} == {"offline", "probe", "single"}


@pytest.mark.slow
def test_a_budget_too_small_for_one_test_is_said():
    rate = wb.find_server_rate(Sleeper(2.0), ROWS, latency_bound_ms=50.0, budget_s=0.1)
    assert rate.per_s is None and not rate.probes and "budget_s" in rate.ended


@pytest.mark.slow
def test_a_rate_that_holds_and_one_far_too_high_are_judged():
    server = {"scenario": "server", "percentile": 0.9, "duration_s": 1.0}
    high = probe_result(
        wb.run_scenario(Sleeper(5.0, call_size=1), ROWS, target_per_s=1500.0, latency_bound_ms=50.0, **server)
    )
    assert not high.held and high.per_s == 1500.0 and high.result.latency_ms_target > 50.0
    assert high.reason.startswith("p90 ") and high.reason.endswith("too many outstanding rows")
    low = probe_result(wb.run_scenario(Sleeper(1.0), ROWS, target_per_s=100.0, latency_bound_ms=300.0, **server))
    assert low.held and low.reason == "" and low.result.latency_ms_target <= 300.0


@pytest.mark.slow
def test_a_server_of_known_capacity():
    """One row per call of at least 4 ms: no more than 250 rows a second, whatever the machine."""
    rate = wb.find_server_rate(
        Sleeper(4.0, call_size=1), ROWS, latency_bound_ms=30.0, percentile=0.9, probe_s=2.0, tolerance=0.1
    )
    held = [probe for probe in rate.probes if probe.held]
    assert rate.per_s == max(probe.per_s for probe in held) < 250 * 1.1
    for probe in rate.probes:
        late = float((probe.result.latencies_ms > 30.0).mean())
        assert late <= 0.1 if probe.held else not probe.result.valid
        assert (probe.reason == "") == probe.held
