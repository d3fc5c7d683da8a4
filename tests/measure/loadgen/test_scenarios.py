"""MLPerf's scenarios: LoadGen's own files as the oracle, engines of known latency, errors that come out, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
from served import Sleeper

import workbench as wb
from workbench.core.errors import ConfigError, EngineError, InputError, PackageMissing
from workbench.measure.loadgen.scenarios import SCENARIOS, latency_at
from workbench.measure.loadgen.server_rate import queries_needed

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
SERVER = {"target_per_s": 200.0, "latency_bound_ms": 50.0}


def run(engine, scenario, **options):
    extra = SERVER if scenario == "server" else {}
    return wb.run_scenario(engine, ROWS, scenario=scenario, **{"duration_s": 0.5, **extra, **options})


def figures(folder):
    """Return the figures of LoadGen's summary, the last of a name counting: another file than the one we read."""
    text = (folder / "mlperf_log_summary.txt").read_text()
    return {name.strip(): value.strip() for name, value in re.findall(r"^ *([^:\n]+):(.*)$", text, re.M)}


def ms(summary, name):
    return int(summary[f"{name} latency (ns)"]) / 1e6


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_result_is_what_loadgen_wrote(scenario, tmp_path):
    result = run(Sleeper(2.0), scenario, logs=tmp_path / "logs")
    said = figures(tmp_path / "logs")
    assert said["Scenario"] == SCENARIOS[scenario]
    assert result.valid == (said["Result is"] == "VALID") and bool(result.reasons) != result.valid
    raw = np.sort(result.latencies_ms)
    assert raw[-1] == pytest.approx(ms(said, "Max"), abs=1e-6)
    assert raw[0] == pytest.approx(ms(said, "Min"), abs=1e-6) or scenario == "offline"  # one query of many samples
    for quantile, figure in (0.5, result.latency_ms_p50), (0.9, result.latency_ms_p90), (0.99, result.latency_ms_p99):
        logged = ms(said, f"{100 * quantile:.2f} percentile")
        assert raw[int(raw.size * quantile)] == pytest.approx(logged, abs=1e-6) or scenario == "offline"
        assert figure is None or figure == pytest.approx(logged, abs=1e-6)
        assert (figure is None) == (latency_at(result.latencies_ms, quantile) is None)
    assert result.logs == tmp_path / "logs" and "not an MLPerf result" in result.notes[0]
    assert result.conditions.seconds > 0 and str(result).startswith(f"{scenario} on sleeper: ")


def test_single_stream_is_one_row_after_the_other_on_this_thread():
    engine = Sleeper(2.0)
    result = run(engine, "single-stream")
    assert {rows for rows, _ in engine.calls} == {1}
    assert {thread for _, thread in engine.calls} == {threading.get_ident()}
    assert result.latencies_ms.min() >= 2.0 and result.samples_per_s <= 500
    assert result.queries == result.latencies_ms.size >= 64 and result.samples_per_query == 1
    assert result.valid and result.percentile == 0.9 and result.latency_ms_target == result.latency_ms_p90
    assert result.target_per_s is None and result.logs is None


@pytest.mark.parametrize("size", [3, 8])  # fewer and more than there are rows
def test_multi_stream_runs_all_samples_of_a_query_in_one_call(size):
    engine = Sleeper(2.0)
    result = run(engine, "multi-stream", samples_per_query=size)
    assert {rows for rows, _ in engine.calls} == {size} and result.samples_per_query == size
    assert result.latencies_ms.min() >= 2.0
    assert result.samples_per_s == pytest.approx(size * result.queries / result.duration_s)
    assert not result.valid and "at least 662 queries" in result.reasons[0]
    assert any("do not resolve p99" in note for note in result.notes) == (result.latency_ms_p99 is None)


def test_offline_runs_in_the_calls_of_the_engine():
    engine = Sleeper(2.0, call_size=4)
    result = run(engine, "offline")
    assert max(rows for rows, _ in engine.calls) == 4
    assert result.valid and result.duration_s >= 0.5 and result.queries == 1
    assert result.samples_per_s <= 4 / 2e-3
    assert result.latency_ms_p50 is None and any("no latency percentiles" in note for note in result.notes)


@pytest.mark.slow
def test_server_joins_rows_that_arrive_together_and_its_arrivals_have_a_seed():
    engine = Sleeper(10.0, call_size=8)
    first = run(engine, "server", target_per_s=400.0, seed=3)
    assert max(rows for rows, _ in engine.calls[-10:]) > 1
    assert threading.get_ident() not in {thread for _, thread in engine.calls}
    assert first.latencies_ms.min() >= 10.0 and first.target_per_s == 400.0 and first.percentile == 0.99
    again, other = (run(Sleeper(1.0), "server", target_per_s=400.0, seed=seed).queries for seed in (3, 4))
    assert again == first.queries != other


def test_more_than_it_can_do_is_not_valid_and_ends_early():
    engine = Sleeper(10.0, call_size=1)
    result = run(engine, "server", target_per_s=1000.0, latency_bound_ms=20.0, duration_s=1.0)
    assert not result.valid and "the latency bound was exceeded" in result.reasons
    assert any("Too many outstanding queries" in reason for reason in result.reasons)
    assert result.queries < 500


def boom(number):
    def on_call(call):
        if call == number:
            raise ValueError("the model broke")

    return on_call


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_of_the_engine_comes_out_when_the_test_has_ended_and_the_next_test_runs(scenario):
    warm = Sleeper(1.0)
    run(warm, scenario, duration_s=0.1)
    with pytest.raises(ValueError, match="the model broke"):
        run(Sleeper(1.0, on_call=boom(len(warm.calls) - 2)), scenario, duration_s=0.3)
    assert run(Sleeper(1.0), scenario, duration_s=0.1).queries > 0


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ctrl_c_ends_the_work_and_is_raised_afterwards(scenario):
    handler = signal.getsignal(signal.SIGINT)
    warm = Sleeper(1.0)
    run(warm, scenario, duration_s=0.1)
    number = len(warm.calls) - 2

    def stop(call):
        if call == number:
            os.kill(os.getpid(), signal.SIGINT)

    engine = Sleeper(1.0, on_call=stop)
    with pytest.raises(KeyboardInterrupt):
        run(engine, scenario, duration_s=0.6)
    assert len(engine.calls) < number + 400
    assert signal.getsignal(signal.SIGINT) is handler
    assert run(Sleeper(1.0), scenario, duration_s=0.1).queries > 0


@pytest.fixture
def heard():
    """Have Ctrl-C raise: a shell's background job may start with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_while_an_answer_does_not_come():
    release = threading.Event()

    def hang(call):
        if call == 2:
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            threading.Timer(1.0, release.set).start()
            release.wait()

    with pytest.raises(KeyboardInterrupt):
        run(Sleeper(1.0, call_size=1, on_call=hang), "server", duration_s=0.2)


def test_one_test_at_a_time():
    caught = []

    def nested(call):
        if call == 80:
            try:
                run(Sleeper(1.0), "single-stream", duration_s=0.1)
            except EngineError as error:
                caught.append(str(error))

    run(Sleeper(5.0, on_call=nested), "single-stream", duration_s=0.5)
    assert caught == ["LoadGen runs one test at a time per process. Wait for the running one."]


def test_it_runs_on_another_thread_than_the_main_one():
    found = []
    thread = threading.Thread(target=lambda: found.append(run(Sleeper(1.0), "single-stream", duration_s=0.2)))
    thread.start()
    thread.join()
    assert found[0].valid


def test_a_config_in_the_working_folder_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit.config").write_text("*.*.max_query_count = 3\n*.*.min_query_count = 3\n*.*.mode = 2\n")
    assert run(Sleeper(1.0), "single-stream", duration_s=0.2).queries > 3
    assert [path.name for path in tmp_path.iterdir()] == ["audit.config"]


def test_the_queries_needed_are_those_that_loadgen_names():
    result = run(Sleeper(20.0), "single-stream", duration_s=0.1)
    assert not result.valid and f"at least {queries_needed(0.9)} queries" in result.reasons[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scenario": "servr"}, "Did you mean 'server'"),
        ({"duration_s": 0}, "duration_s must be a number of seconds above 0"),
        ({"duration_s": "5"}, "duration_s"),
        ({"scenario": "server"}, "requires target_per_s"),
        ({"scenario": []}, "Unknown scenario []"),
        ({"scenario": "server", "target_per_s": 5}, "requires latency_bound_ms"),
        ({"scenario": "server", "target_per_s": -5, "latency_bound_ms": 5}, "target_per_s must be a number"),
        ({"target_per_s": 5}, "valid for scenario='server'"),
        ({"latency_bound_ms": 5}, "valid for scenario='server'"),
        ({"percentile": 99}, "such as 0.99"),
        ({"samples_per_query": 0}, "samples_per_query"),
        ({"max_wait_ms": -1}, "max_wait_ms"),
        ({"seed": -1}, "seed"),
        ({"logs": 3}, "logs"),
    ],
)
def test_wrong_options_are_refused_before_work_starts(options, words):
    engine = Sleeper(1.0)
    with pytest.raises(ConfigError, match=re.escape(words)):
        wb.run_scenario(engine, ROWS, **options)
    assert not engine.calls


@pytest.mark.parametrize("samples", [np.zeros((0, 2)), 3, [], np.zeros(())])
def test_samples_without_rows_are_refused(samples):
    with pytest.raises(InputError, match="samples"):
        wb.run_scenario(Sleeper(1.0), samples)


def test_a_missing_package_is_said_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(PackageMissing, match=re.escape('pip install "inference-workbench[loadgen]"')):
        wb.run_scenario(Sleeper(1.0), ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "torch-eager"])
def test_a_real_engine_answers_every_scenario(backend, tiny_task):
    variant = wb.Recipe().apply(tiny_task)
    with wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=8) as engine:
        for scenario in SCENARIOS:
            options = SERVER if scenario == "server" else {}
            result = wb.run_scenario(engine, tiny_task, scenario=scenario, duration_s=0.3, **options)
            assert result.backend == backend and result.samples_per_s > 0
            assert np.isfinite(result.latencies_ms).all() and result.latencies_ms.min() > 0
        with pytest.raises(InputError):
            wb.run_scenario(engine, np.zeros((3, 5, 5), np.float32))


def test_the_latency_at_a_percentile_is_loadgens_rank():
    values = np.arange(1000, dtype=np.float64)[::-1]
    assert latency_at(values, 0.99) == 990.0 and latency_at(values[:100], 0.99) is None


def test_a_test_takes_as_long_as_it_is_asked_to():
    began = time.perf_counter()
    run(Sleeper(1.0), "single-stream", duration_s=0.4)
    assert time.perf_counter() - began >= 0.4


@pytest.mark.parametrize("engine", [None, "onnxruntime"])
def test_what_is_no_engine_is_refused(engine):
    with pytest.raises(InputError, match="run_scenario: engine must be an engine that is open"):
        wb.run_scenario(engine, np.zeros((4, 2)))
    with pytest.raises(InputError, match="find_server_rate: engine must be an engine that is open"):
        wb.find_server_rate(engine, np.zeros((4, 2)), latency_bound_ms=5.0)
