"""The notebooks of factorization and sensitivity, with small parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from paths import SUPPORT

SHORT = SUPPORT / "short.py"


@pytest.mark.slow
def test_the_factorization_notebook_draws_ranks_and_ways(
    run_outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = {
        "task": f"{SHORT}:short",
        "energies": [0.9, 0.5],
        "ways": ["channel", "spatial", "whitened"],
        "recover_epochs": 0.2,
        "interactive": False,
    }
    shown = run_outputs("12_factorize.ipynb", parameters)
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    table = next(o.data["text/plain"] for o in shown if "macs_share" in o.get("data", {}).get("text/plain", ""))
    assert all(way in table for way in ("channel", "spatial", "whitened"))


@pytest.mark.slow
def test_the_sensitivity_notebook_draws_the_map_and_the_comparison(
    run_outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = {
        "task": f"{SHORT}:short",
        "settings": [0.2, 0.4],
        "goals": [3.0],
        "uniform": [0.4],
        "interactive": False,
    }
    shown = run_outputs("14_sensitivity.ipynb", parameters)
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    table = next(o.data["text/plain"] for o in shown if "quality_drop" in o.get("data", {}).get("text/plain", ""))
    assert "values per layer" in table and "one ratio" in table
