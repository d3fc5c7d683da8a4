"""Bad input is answered in one line, before work starts, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT, SUPPORT

BAD = SUPPORT / "bad.py"
TINY = f"{SUPPORT / 'tiny.py'}:tiny"


def workbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the shell command in ``cwd`` as a user would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "workbench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "missing.py:task"], ["missing.py"]),
        (["--task", "digitz"], ["digitz", "digits"]),
        (["--task", f"{BAD}:wrong_shap"], ["wrong_shap", "wrong_shape"]),
        (["--task", f"{BAD}:wrong_shape"], ["[3, 8, 8]"]),
        (["--task", f"{BAD}:short_labels"], ["256", "200"]),
        (["--task", f"{BAD}:nan_weights"], ["head.weight", "NaN"]),
        (["--task", TINY, "-p", "budgets", "10"], ["budgets", "budget_s"]),
        (["--task", TINY, "-p", "backends", "onnxruntim"], ["onnxruntim", "onnxruntime"]),
        (["--task", TINY, "-p", "budget_s", "soon"], ["budget_s", "soon"]),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_report_refuses_in_one_line_before_work_starts(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = workbench("report", *arguments, "--output", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert not list(tmp_path.glob("out/*"))


def test_an_unwritable_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = workbench("report", "--task", TINY, "--output", str(tmp_path / "file" / "out"), cwd=tmp_path)
    assert done.returncode == 2
    assert "Choose another folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unknown_backend_of_a_study(tmp_path: Path) -> None:
    done = workbench("study", "--task", TINY, "--backends", "openvin", "--storage", "sqlite:///s.db", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'openvino'" in done.stderr


def test_a_ratio_out_of_range() -> None:
    import workbench as wb
    from workbench.core.errors import ConfigError

    with pytest.raises(ConfigError, match=r"Prune.ratio must be above 0 and below 1, got 1.5"):
        wb.Prune(ratio=1.5)


def test_a_model_that_cannot_be_exported_says_so_in_one_sentence() -> None:
    import workbench as wb
    from workbench.core.errors import ExportError

    task = wb.load_task(f"{BAD}:unexportable")
    variant = wb.Recipe().apply(task)
    with pytest.raises(ExportError) as caught:
        wb.OptimizedInferenceEngine.from_variant(variant, backend="onnxruntime").initialize()
    assert len(str(caught.value)) < 600
    with wb.OptimizedInferenceEngine.from_variant(variant, backend="torch-eager") as engine:
        assert engine.predict(task.examples(2)).result.shape == (2, 4)
