"""The notebooks about engines, with small parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outputs import SHORT, pictures, printed


@pytest.mark.slow
def test_the_engine_notebook_compares_runtimes_and_their_settings(run_outputs: Any, here: Path) -> None:
    parameters = {
        "task": SHORT,
        "backends": ["torch-eager", "onnxruntime", "openvino"],
        "compilers": [],
        "batch_sizes": [1, 4],
        "budget_s": 0.3,
        "interactive": False,
    }
    outputs = run_outputs("20_engines.ipynb", parameters)
    text = printed(outputs)
    assert pictures(outputs) == 2
    for words in ("every engine loaded", "max_abs_diff", "optimized before", "takes none of the model's", "40 results"):
        assert words in text
    assert (here / "artifacts" / "engines" / "manifest.json").is_file()


@pytest.mark.slow
def test_the_memory_notebook_shows_batches_threads_and_buffers(run_outputs: Any, here: Path) -> None:
    parameters = {
        "task": SHORT,
        "batch_sizes": [1, 4],
        "compare_with": ["openvino"],
        "requests": 8,
        "threads": 2,
        "budget_s": 0.3,
        "interactive": False,
    }
    outputs = run_outputs("22_memory_and_batching.ipynb", parameters)
    text = printed(outputs)
    assert pictures(outputs) == 6
    for words in (
        "times the samples per second",
        "queue_ms",
        "served from kept buffers",
        "page_faults_per_call",
        "steady",
    ):
        assert words in text


@pytest.mark.slow
def test_the_tuning_notebook_reads_its_own_numbers_and_keeps_what_it_chose(run_outputs: Any, here: Path) -> None:
    parameters = {
        "task": SHORT,
        "backends": ["torch-eager", "onnxruntime", "openvino"],
        "batch_sizes": [1, 4],
        "thread_counts": [1, 2],
        "stream_counts": [2],
        "budget_s": 0.3,
        "tune_s": 1.5,
        "interactive": False,
    }
    outputs = run_outputs("21_cpu_tuning.ipynb", parameters)
    text = printed(outputs)
    assert pictures(outputs) == 8
    for words in (
        "CPUs of each core",
        "of the weights are denormal",
        "relative to normal weights",
        "samples per second",
    ):
        assert words in text or any(words in o.get("data", {}).get("text/html", "") for o in outputs)
    assert text.count("Cached for the next engine: ") == 3  # in so little time not all are decided
    assert len(list((here / "cache" / "tuning").glob("*.json"))) == text.count("Cached for the next engine: True.")


@pytest.mark.slow
def test_the_measurement_notebook_judges_engines_and_puts_them_under_load(run_outputs: Any, here: Path) -> None:
    parameters = {
        "task": SHORT,
        "backends": ["torch-eager", "onnxruntime"],
        "batch_size": 4,
        "noise_s": 0.5,
        "budget_s": 0.5,
        "scenario_s": 0.2,
        "latency_bound_ms": 500.0,
        "interactive": False,
    }
    outputs = run_outputs("30_measure.ipynb", parameters)
    text = printed(outputs)
    assert pictures(outputs) == 5
    for words in ("noise floor ", "95 % CI", "system load: ", "single-stream on onnxruntime", "offline on", "20%"):
        assert words in text
    assert list((here / "cache" / "noise").glob("*.json"))
