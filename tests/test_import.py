"""`import workbench` is light, and its public face is whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = [
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "matplotlib",
    "pandas",
    "sqlalchemy",
    "ipywidgets",
    "torch_pruning",
    "torchao",
    "papermill",
    "IPython",
    "optuna",
]


def loaded_after(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter holds after ``code``."""
    script = f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["workbench", "workbench.study.workers.main", "workbench.cli.main", "workbench.engine.engine"]
)
def test_imports_load_nothing_heavy(module: str) -> None:
    assert loaded_after(f"import {module}") == set()


def test_recipes_are_written_without_torch() -> None:
    code = "import workbench as wb; wb.Recipe(wb.Prune(ratio=0.5), wb.Quantize()).to_json()"
    assert loaded_after(code) == set()


def test_spaces_and_goals_are_written_without_torch_and_optuna() -> None:
    code = "import workbench as wb; wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.8))); wb.Goals()"
    assert loaded_after(code) == set()


def test_a_study_of_a_built_in_task_is_opened_without_torch(tmp_path) -> None:
    code = f"import workbench as wb\nstudy = wb.Study('digits', storage='sqlite:///{tmp_path}/s.db')"
    assert loaded_after(f"{code}\nassert study.name == 'digits'\nstudy.close()") == {"sqlalchemy"}


@pytest.mark.parametrize("name", ["digits", "digits_vit"])
def test_the_name_of_a_built_in_task_is_that_of_its_studies(name: str) -> None:
    from workbench.tasks.load import load_task

    assert load_task(name).name == name


def test_every_public_name_resolves() -> None:
    import workbench as wb

    for name in wb.__all__:
        assert getattr(wb, name) is not None
    assert set(wb.__all__) <= set(dir(wb))


def test_a_wrong_name_suggests_the_right_one() -> None:
    import workbench as wb

    with pytest.raises(AttributeError, match="Did you mean 'Recipe'"):
        _ = wb.Recipee
