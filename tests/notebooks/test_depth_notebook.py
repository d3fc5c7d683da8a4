"""The depth pruning notebook runs, and shows the removed blocks, its chart and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_the_depth_pruning_notebook_removes_blocks_and_draws_what_training_repairs(
    run_outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters: dict[str, Any] = {
        "task": "digits_vit",
        "blocks": [1],
        "latency_engine": "",
        "epochs": 0.05,
        "interactive": False,
    }
    shown = run_outputs("15_depth_pruning.ipynb", parameters)
    assert sum("image/png" in output.get("data", {}) for output in shown) == 1
    tables = [output.get("data", {}).get("text/plain", "") for output in shown]
    assert any("TransformerBlock" in table and "removed as number 1" in table for table in tables)
    assert any("removed, then distilled" in table and "macs_share" in table for table in tables)
