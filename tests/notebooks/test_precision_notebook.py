"""The precision notebook, with small parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from outputs import SHORT, pictures, printed


@pytest.mark.slow
def test_the_precision_notebook_shows_time_distance_and_what_is_refused(run_outputs: Any, here: Path) -> None:
    parameters: dict[str, Any] = {
        "task": SHORT,
        "backends": ["torch-eager", "onnxruntime"],
        "precisions": ["float32", "bfloat16"],
        "batch_size": 4,
        "budget_s": 0.3,
        "interactive": False,
    }
    outputs = run_outputs("23_precision.ipynb", parameters)
    text = printed(outputs)
    for words in (
        "ONNX Runtime's CPU kernels compute in float32 and integers only",
        "torch-eager in bfloat16 is too far from the float model",
        "allowed is 0.0001",
        "auto takes",
    ):
        assert words in text
    gpu = torch.cuda.is_available()
    assert pictures(outputs) == 2 + gpu
    assert gpu or ("No GPU here: torch finds no CUDA device" in text and "not measured: no GPU" in text)
    assert gpu or "device='cuda', but torch finds no CUDA device" in text
