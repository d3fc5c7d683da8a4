"""The search notebook, with small parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outputs import SHORT, pictures, printed


@pytest.mark.slow
def test_the_search_notebook_recommends_a_point_and_draws_the_front(run_outputs: Any, here: Path) -> None:
    parameters: dict[str, Any] = {
        "task": SHORT,
        "storage": f"sqlite:///{here / 's.db'}",
        "quality_drop": 0.5,
        "epochs": 0.5,
        "batch_size": 4,
        "trials": 5,
        "budget_s": 600.0,
        "front_trials": 3,
        "front_s": 600.0,
        "interactive": False,
    }
    outputs = run_outputs("33_search.ipynb", parameters)
    text = printed(outputs)
    assert "all 5 trials were run" in text and "all 3 trials were run" in text
    assert "meet the goals (drop at most 0.5" in text
    assert "break-even after" in text or "No break-even" in text
    assert pictures(outputs) == 2
