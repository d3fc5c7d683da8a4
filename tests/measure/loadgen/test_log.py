"""Reading LoadGen's files: written by hand here, so that every odd line can be there."""

from __future__ import annotations

import json

import pytest

from workbench.core.errors import EngineError
from workbench.measure.loadgen.log import read_log

SUMMARY = "MLPerf Results Summary\nSUT name : PySUT\nResult is : {}\n  Min duration satisfied : Yes\n"


def entry(key, value, *, error=False):
    return ":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": {"is_error": error}})


def sample(query, complete_ns):
    args = f'"sample_seq":9,"query_seq":{query},"sample_idx":1,"issue_start_ns":5,"complete_ns":{complete_ns}'
    return (
        f'{{"name":"Sample","cat":"default","ph":"b","pid":1,"id":9,"ts":1.5,"args":{{{args}}}}},\n'
        '{"name":"Sample","cat":"default","ph":"e", "pid":1,"id":9,"ts":2.5},'
    )


def write(folder, *, detail, valid="VALID", trace=()):
    (folder / "mlperf_log_summary.txt").write_text(SUMMARY.format(valid))
    (folder / "mlperf_log_detail.txt").write_text("\n".join(detail))
    (folder / "mlperf_log_trace.json").write_text('{"traceEvents":[\n' + "\n".join(trace) + "\n]}")
    return folder


def test_a_query_lasts_until_its_last_sample_and_queries_stand_in_the_order_of_issue(tmp_path):
    trace = [sample(1, 3_000_000), sample(0, 2_000_000), sample(1, 5_500_000), '{"name":"Waiting","ph":"X"},']
    log = read_log(write(tmp_path, detail=[entry("result_validity", "VALID")], trace=trace))
    assert list(log.latencies_ms) == [2.0, 5.5] and log.samples == 3
    assert log.valid and log.reasons == () and log.errors == ()


def test_the_last_value_of_a_key_counts_and_a_broken_line_breaks_nothing_else(tmp_path):
    detail = [
        "a line of another kind",
        ':::MLLOG {"key": "cpu", "value": "the "quick" one"}',
        entry("result_validity", "INVALID"),
        entry("result_validity", "VALID"),
        entry("result_50.00_percentile_latency_ns", 2_500_000),
    ]
    log = read_log(write(tmp_path, detail=detail))
    assert log.valid and log.ms("result_50.00_percentile_latency_ns") == 2.5 and "cpu" not in log.detail


def test_why_a_test_is_not_valid_is_said_in_sentences(tmp_path):
    detail = [
        entry("error_runtime", "Ending early:  Too many outstanding queries.", error=True),
        entry("result_validity", "INVALID"),
        entry("result_perf_constraints_met", False),
        entry("result_min_duration_met", True),
        entry("early_stopping_met", False),
        entry("early_stopping_result", " * Run unsuccessful.  * Processed 58 queries."),
        entry("result_invalid_reason", "Reduce target QPS to improve latency. "),
    ]
    log = read_log(write(tmp_path, detail=detail, valid="INVALID"))
    assert not log.valid
    assert log.reasons == (
        "the latency bound was exceeded",
        "too few queries for early stopping: Run unsuccessful. Processed 58 queries.",
        "Ending early: Too many outstanding queries.",
        "LoadGen: Reduce target QPS to improve latency.",
    )


@pytest.mark.parametrize(("summary", "validity"), [("VALID", "INVALID"), ("INVALID", "VALID")])
def test_a_test_is_valid_only_where_both_files_say_so(tmp_path, summary, validity):
    assert not read_log(write(tmp_path, detail=[entry("result_validity", validity)], valid=summary)).valid


def test_a_test_without_a_result_is_an_error_with_what_loadgen_said(tmp_path):
    with pytest.raises(EngineError, match="cannot be read"):
        read_log(tmp_path)
    write(tmp_path, detail=[entry("error_invalid_config", "It broke.", error=True)])
    with pytest.raises(EngineError, match=r"LoadGen wrote no result .* It broke\."):
        read_log(tmp_path)
