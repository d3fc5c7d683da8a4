"""The notebooks in git: short cells, no outputs, a kernel named; and the quickstart runs without widgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from paths import ROOT, SUPPORT

from workbench.report.parameters import read_parameters

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT = SUPPORT / "short.py"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_as_kept_in_git(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    assert book.metadata.language_info.name == "python"
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.source
            assert len(cell.source.splitlines()) <= 15, cell.source
            compile(cell.source, path.name, "exec")
    assert book.cells[0].source.startswith("# ")
    words = " ".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert "**Purpose.**" in words and "What to try next" in words


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_parameters_are_literals_that_papermill_can_read(path: Path) -> None:
    values = read_parameters(path)
    assert "interactive" in values
    assert all(value is not None for value in values.values())
    cell = next(c for c in json.loads(path.read_text())["cells"] if "parameters" in c["metadata"].get("tags", []))
    assert all(line.count("=") == 1 and ":" not in line.split("=")[0] for line in cell["source"])


@pytest.mark.cpu_limit(60)
def test_the_quickstart_runs_without_a_widget(
    run_notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters: dict[str, Any] = {
        "task": f"{SHORT}:short",
        "storage": f"sqlite:///{tmp_path / 'study.db'}",
        "budget_s": 900,
        "batch_sizes": [4],
        "interactive": False,
    }
    book = run_notebook("00_quickstart.ipynb", parameters)
    assert "widgets" not in book.metadata
    shown = "".join(json.dumps(o) for c in book.cells if c.cell_type == "code" for o in c.outputs)
    assert "widget-view" not in shown
    assert "import workbench as wb" in shown
    assert (tmp_path / "study.db").exists()


@pytest.mark.slow
def test_the_distillation_notebook_draws_its_curves(
    run_outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters: dict[str, Any] = {
        "task": f"{SHORT}:short",
        "epochs": 0.5,
        "layers": ["norm2", "norm3"],
        "interactive": False,
    }
    shown = run_outputs("11_distill.ipynb", parameters)
    assert sum("image/png" in o.get("data", {}) for o in shown) == 1
    table = next(o.data["text/plain"] for o in shown if "objective" in o.get("data", {}).get("text/plain", ""))
    assert all(name in table for name in ("labels", "logits", "last map", "features", "attention", "less teacher"))
