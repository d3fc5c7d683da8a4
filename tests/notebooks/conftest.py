"""Runs the project's notebooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from workbench.report.notebook import execute_notebook

FOLDER = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that the notebook runs in; what it caches goes there too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run_notebook(tmp_path: Path) -> Callable[..., Any]:
    """Return what runs a notebook by its name with parameters and gives the book as it came out."""

    def run(name: str, parameters: dict[str, Any]) -> Any:
        target = tmp_path / name
        execute_notebook(FOLDER / name, target, parameters, log=lambda _: None)
        return nbformat.read(target, as_version=4)

    return run


@pytest.fixture
def run_outputs(run_notebook: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Return what runs a notebook and gives the outputs of its code cells."""

    def run(name: str, parameters: dict[str, Any]) -> list[Any]:
        cells = run_notebook(name, parameters).cells
        return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]

    return run
