"""The notebooks about profiles and the roofline, with small parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from outputs import SHORT, pictures, printed


@pytest.mark.slow
def test_the_profile_notebook_shows_layers_and_says_why(run_outputs: Any, here: Path) -> None:
    parameters = {"task": SHORT, "batch_size": 4, "calls": 6, "peaks_s": 0.0, "interactive": False}
    outputs = run_outputs("31_profile.ipynb", parameters)
    text = printed(outputs)
    assert pictures(outputs) == 4
    for words in ("sum of", "plain call (ms)", "Bottlenecks of int8:", "simulated: torch-eager", "nsys profile"):
        assert words in text
    assert "USDT" not in text
    for name in ("torch-eager", "onnxruntime", "openvino"):
        assert json.loads((here / "profiles" / f"{name}.json").read_text())


@pytest.mark.slow
def test_the_roofline_notebook_draws_variants_and_layers(run_outputs: Any, here: Path) -> None:
    parameters = {"task": SHORT, "batch_sizes": [1, 4], "peaks_s": 0.0, "calls": 4, "interactive": False}
    outputs = run_outputs("32_roofline.ipynb", parameters)
    text = printed(outputs)
    assert pictures(outputs) == 2
    for words in ("GFLOP/s", "flop/byte in float32", "% of the", "int8, openvino, batch 4"):
        assert words in text
    assert len(list((here / "cache" / "peaks").glob("*.json"))) == 1
