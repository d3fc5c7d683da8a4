"""One artifact on every backend of this machine: rows of a study, without a study."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import workbench as wb
from workbench.artifact import open_artifact
from workbench.core.errors import ArtifactError, BackendUnavailable, ConfigError
from workbench.core.machine import fingerprint_id
from workbench.study import COLUMNS, bench_artifact
from workbench.study.results.schema import OPTIONAL


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, shared_task):
    return wb.Recipe().apply(shared_task).save(tmp_path_factory.mktemp("artifact") / "float")


@pytest.fixture(scope="module")
def rows(artifact):
    return bench_artifact(artifact, batch_sizes=(1, 4), threads=1)


def test_there_is_a_finished_row_for_each_backend_and_batch_size(rows):
    assert [(r["batch_size"], r["backend"]) for r in rows] == [
        (size, backend) for size in (1, 4) for backend in ("onnxruntime", "openvino")
    ]
    for row in rows:
        assert (row["state"], row["threads"], row["task"], row["recipe"]) == ("complete", 1, "answers", "float")
        assert row["throughput_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["latency_ms_p50"])
        assert row["max_abs_diff"] < 1e-4 and row["fingerprint"] == fingerprint_id() and row["machine"]


def test_the_columns_are_those_of_a_study_and_none_always_has_a_reason(rows):
    for row in rows:
        assert tuple(row) == COLUMNS
        missing = {name for name, value in row.items() if value is None and name not in OPTIONAL}
        assert missing <= set(row["notes"]), missing - set(row["notes"])
        assert "needs the task" in row["notes"]["quality"] and row["verdict"] is None


def test_openvino_tells_compiling_apart_from_loading(rows):
    for row in rows:
        assert (row["compile_ms"] is not None) == (row["backend"] == "openvino")
        assert row["load_ms"] > 0 and row["first_call_ms"] > 0


def test_keys_tell_artifact_engine_and_batch_apart_and_are_those_of_the_study(rows, shared_task):
    from workbench.study.plan.trials import make_plan

    assert len({row["trial_key"] for row in rows}) == 4
    plan = make_plan(shared_task.fingerprint, [], ["onnxruntime"], [4], threads=1)
    (same,) = [t for t in plan.trials if t.backend == "onnxruntime"]
    assert {row["artifact_key"] for row in rows} == {same.artifact_key}
    assert same.key not in {row["trial_key"] for row in rows}  # a study's own trial knows quality too


@pytest.mark.slow
def test_torch_runs_with_the_task_and_is_the_baseline_then(artifact, shared_task):
    found = bench_artifact(artifact, backends=["onnxruntime", "torch-eager"], batch_sizes=[4], task=shared_task)
    base, other = found
    assert (base["backend"], base["baseline"], base["speedup"]) == ("torch-eager", True, 1.0)
    assert other["speedup"] > 0 and other["verdict"] is not None


def test_given_inputs_are_taken_and_repeated(artifact, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.ones((3, 1, 8, 8), np.float32))
    (row,) = bench_artifact(artifact, backends=["onnxruntime"], batch_sizes=[4], data=tmp_path / "x.npz")
    assert row["state"] == "complete"


def test_a_backend_that_cannot_run_it_fails_alone(artifact, monkeypatch):
    from workbench.study.workers.timing_client import EngineProcess

    warm = EngineProcess.warm

    def kill(arm):
        if arm.trial.backend == "onnxruntime":
            os.kill(arm.worker.pid, signal.SIGKILL)
        warm(arm)

    monkeypatch.setattr(EngineProcess, "warm", kill)
    found = {row["backend"]: row for row in bench_artifact(artifact, batch_sizes=[4])}
    assert found["onnxruntime"]["state"] == "failed" and "SIGKILL" in found["onnxruntime"]["error"]
    assert found["openvino"]["state"] == "complete"


@pytest.mark.parametrize("lost", [("onnxruntime",), ("onnxruntime", "openvino")])
def test_a_backend_that_is_lost_while_it_is_timed_fails_alone(artifact, monkeypatch, lost):
    from workbench.study.workers.timing_client import EngineProcess

    block, calls = EngineProcess.block, []

    def kill(arm, seconds):
        calls.append(arm)
        if arm.trial.backend in lost and len(calls) > 3 and arm.worker.alive:
            os.kill(arm.worker.pid, signal.SIGKILL)
        return block(arm, seconds)

    monkeypatch.setattr(EngineProcess, "block", kill)
    found = {row["backend"]: row["state"] for row in bench_artifact(artifact, batch_sizes=[4])}
    assert found == {name: "failed" if name in lost else "complete" for name in ("onnxruntime", "openvino")}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backends": ["onnxruntim"]}, ConfigError, "Did you mean 'onnxruntime'"),
        ({"backends": "openvino"}, ConfigError, "Write backends="),
        ({"backends": []}, ConfigError, "is empty"),
        ({"backends": ["torch-eager"]}, ConfigError, "Give its task"),
        ({"batch_sizes": [0]}, ConfigError, "at least 1"),
        ({"batch_sizes": []}, ConfigError, "is empty"),
        ({"batch_sizes": [2**40]}, ConfigError, "does not fit into memory"),
        ({"threads": 0}, ConfigError, "threads must be"),
        ({"data": "none.npz"}, ConfigError, "Cannot read the inputs"),
        ({"data": 5}, ConfigError, "bench: data"),
    ],
)
def test_bad_arguments_are_answered_before_work_starts(artifact, started, options, error, words):
    with pytest.raises(error, match=words):
        bench_artifact(artifact, **options)
    assert started == []


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"picture": np.ones((2, 1, 8, 8), np.float32)}, "image: float32"),
        ({"image": np.ones((2, 1, 9, 9), np.float32)}, r"was given with shape \[2, 1, 9, 9\]"),
        ({"image": np.ones((2, 1, 8, 8), np.int64)}, "was given as int64"),
        ({"image": np.array([None])}, "is not an .npz file of arrays"),
    ],
)
def test_inputs_that_do_not_fit_are_told(artifact, tmp_path, started, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=words):
        bench_artifact(artifact, data=tmp_path / "x.npz")
    assert started == []


def test_other_files_are_no_inputs(artifact, tmp_path):
    (tmp_path / "x.npz").write_text("no numbers")
    np.save(tmp_path / "y.npy", np.ones(3))
    for name in ("x.npz", "y.npy"):
        with pytest.raises(ConfigError, match=r"not an \.npz file"):
            bench_artifact(artifact, data=tmp_path / name)


def test_an_artifact_that_is_none_or_damaged_is_told_before_work_starts(artifact, tmp_path, started):
    with pytest.raises(ArtifactError, match="does not exist"):
        bench_artifact(tmp_path / "none")
    shutil.copytree(artifact.folder, tmp_path / "cut")
    (tmp_path / "cut" / "model.onnx").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="was changed"):
        bench_artifact(tmp_path / "cut")
    assert started == []


def test_a_fixed_batch_is_the_only_one(artifact, shared_task, started, monkeypatch):
    import dataclasses

    fixed = dataclasses.replace(artifact, io=dataclasses.replace(artifact.io, batch=4))
    with pytest.raises(ConfigError, match="must be 4"):
        bench_artifact(fixed, batch_sizes=[1, 4])
    other = wb.Task(
        name="other",
        build=shared_task.build,
        train=(shared_task.train.inputs * 2, shared_task.train.targets),
        evaluation=(shared_task.evaluation.inputs, shared_task.evaluation.targets),
        metric=shared_task.metric,
        loss=shared_task.loss,
    )
    with pytest.raises(ConfigError, match="was made for the task 'answers'"):
        bench_artifact(artifact, backends=["torch-eager"], task=other)
    assert started == []


def test_no_backend_at_all_says_what_to_install(artifact, monkeypatch):
    monkeypatch.setattr("workbench.study.bundle.bench_request.backend_status", lambda names: [])
    with pytest.raises(BackendUnavailable, match=r"pip install \"inference-workbench\[runtime\]"):
        bench_artifact(artifact)


def test_a_program_is_read_by_torch_only_with_trust(artifact):
    import dataclasses

    program = dataclasses.replace(artifact, manifest={**artifact.manifest, "replayable": False})
    with pytest.raises(ConfigError, match="--trust"):
        bench_artifact(program, backends=["torch-eager"])
    named = dataclasses.replace(artifact, manifest={**artifact.manifest, "base": "os:getcwd"})
    with pytest.raises(ConfigError, match=r"'os:getcwd'.*--trust"):
        bench_artifact(named, backends=["torch-eager"])


@pytest.mark.slow
@pytest.mark.parametrize("finished", [0, 1])
def test_ctrl_c_ends_the_processes_and_keeps_what_is_finished(artifact, tmp_path, finished):
    output = tmp_path / "rows.jsonl"
    given = [sys.executable, "-m", "workbench", "bench", str(artifact.folder), "--output", str(output)]
    given += ["--backends", "onnxruntime", "--batch-sizes", *map(str, range(1, 41))]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # an ignored one would be handed down
    worker = subprocess.Popen(given, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    end = time.monotonic() + 120
    while finished and not re.search(r" [1-9]\d*/40 ", worker.stderr.readline()):
        assert worker.poll() is None and time.monotonic() < end
    if not finished:
        assert "loading" in worker.stderr.readline()
    time.sleep(0.5)
    worker.send_signal(signal.SIGINT)
    out, err = worker.communicate(timeout=60)
    assert worker.returncode == 130 and "Traceback" not in err
    if finished:
        row, *_ = map(json.loads, output.read_text().splitlines())
        assert (row["state"], row["batch_size"]) == ("complete", 1) and "Runtime" in out
    else:
        assert "Stopped by Ctrl-C." in err
        assert out == "" and list(tmp_path.iterdir()) == []


def test_opening_by_path_is_the_same(artifact):
    assert open_artifact(str(artifact.folder)).manifest == artifact.manifest
