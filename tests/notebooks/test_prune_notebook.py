"""The pruning notebook runs, and shows its chart and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from workbench.report.execute import execute_notebook

ROOT = Path(__file__).parents[2]
SHORT = ROOT / "tests" / "fixtures" / "short.py"


def test_the_pruning_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parameters: dict[str, Any] = {
        "task": f"{SHORT}:short",
        "importances": ["l2", "random"],
        "ratios": [0.3, 0.6],
        "epochs": 0.2,
        "interactive": False,
    }
    target = tmp_path / "out.ipynb"
    execute_notebook(ROOT / "notebooks" / "10_prune.ipynb", target, parameters, log=lambda _: None)
    book = nbformat.read(target, as_version=4)
    outputs = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    shown = "".join(json.dumps(o) for o in outputs)
    assert "macs_share" in shown and "outputs of the model" in shown
