"""A small install, without torch, runs what a large one has made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT, SUPPORT

import workbench as wb

PROGRAM = SUPPORT / "runtime_only.py"
GET_LAB = 'pip install "inference-workbench[lab]"'
OFFLINE = re.compile("NewConnectionError|connection broken|Max retries|timed out|Temporary failure in name resolution")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an artifact of the float model, made with all that this install has."""
    task = wb.load_task(f"{PROGRAM.with_name('answers.py')}:answers")
    return wb.Recipe().apply(task).save(tmp_path_factory.mktemp("artifact") / "float").folder


def run(command: list[str], folder: Path, *, python_path: str) -> dict[str, Any]:
    """Return what the program found; ``python_path`` is where it may import from beside its own environment."""
    environment = {**os.environ, "PYTHONPATH": python_path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], folder: Path) -> None:
    """Assert that everything of the runtime works, and that the rest is refused in a sentence."""
    assert found["importable"] == []
    assert all(difference < 1e-4 for difference in found["outputs"].values()) and len(found["outputs"]) == 2
    assert found["predicted"] == [8, 4]
    assert found["auto"] in found["outputs"]
    assert {"Study", "Task", "Workbench", "digits", "load_variant", "PrefixCache", "run_report"} <= set(
        found["refused"]
    )
    missing = {name: words for name, words in found["refused"].items() if name != "torch"}
    assert all(words.endswith(GET_LAB) for words in missing.values()), missing
    assert "cannot run here" in found["refused"]["torch"] and "pip install torch" in found["refused"]["torch"]
    assert found["doctor"]["code"] == 0
    assert re.search(r"torch-eager +missing .*pip install torch", found["doctor"]["out"])
    assert re.search(r"GPU +GPUs are unknown: \w+ is not installed", found["doctor"]["out"])
    assert found["bench"]["code"] == 0, found["bench"]["err"]
    task = f"{PROGRAM.with_name('answers.py')}:answers"
    with wb.Study(task, storage=f"sqlite:///{folder / 's.db'}") as study:
        merged = study.merge(folder / "rows.jsonl")
        assert (merged.added, len(merged.machines)) == (2, 1)
        assert {row["backend"] for row in study.rows()} == {"onnxruntime", "openvino"}
    for command in ("study", "report"):
        assert found[command]["code"] == 2 and found[command]["out"] == ""
        assert found[command]["err"].startswith("workbench: ") and found[command]["err"].endswith(f"{GET_LAB}\n")


@pytest.mark.slow
def test_without_the_packages_of_the_lab_artifacts_run_and_the_rest_says_what_to_install(
    artifact: Path, tmp_path: Path
) -> None:
    check(run([sys.executable, str(PROGRAM), str(artifact), "--block"], tmp_path, python_path=str(ROOT)), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_with_the_extra_runtime_alone(artifact: Path, tmp_path: Path) -> None:
    pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("inference_workbench-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = next(
        path for path in (tmp_path / "venv/bin/python", tmp_path / "venv/Scripts/python.exe") if path.exists()
    )
    pip("install", f"{wheel}[runtime]", python=str(python))
    check(run([str(python), str(PROGRAM), str(artifact)], tmp_path, python_path=""), tmp_path)


def pip(*arguments: str, python: str = sys.executable) -> None:
    """Run pip; skip where the package index cannot be reached."""
    command = [python, "-m", "pip", "--quiet", "--retries", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and OFFLINE.search(done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
