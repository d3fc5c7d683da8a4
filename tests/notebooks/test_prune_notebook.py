"""The pruning notebook runs, and shows its chart and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paths import SUPPORT

SHORT = SUPPORT / "short.py"


@pytest.mark.slow
def test_the_pruning_notebook_runs(run_outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parameters: dict[str, Any] = {
        "task": f"{SHORT}:short",
        "importances": ["l2", "random"],
        "ratios": [0.3, 0.6],
        "epochs": 0.2,
        "interactive": False,
    }
    outputs = run_outputs("10_prune.ipynb", parameters)
    assert any("image/png" in o.get("data", {}) for o in outputs)
    shown = "".join(json.dumps(o) for o in outputs)
    assert "macs_share" in shown and "outputs of the model" in shown
