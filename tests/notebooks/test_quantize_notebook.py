"""The quantization notebook, with small parameters and with a library that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from paths import SUPPORT

SHORT = SUPPORT / "short.py"
# The task of a machine without NNCF: loading it hides the library from the notebook's process.
HIDING = f"""
import runpy, sys
if "pytest" not in sys.modules:
    sys.modules["nncf"] = None
def short():
    return runpy.run_path({str(SHORT)!r})["short"]()
"""


@pytest.mark.slow
def test_the_quantization_notebook_shows_modes_and_layers(
    run_outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hiding.py").write_text(HIDING)
    parameters: dict[str, Any] = {
        "task": f"{tmp_path / 'hiding.py'}:short",
        "modes": ["int8 histogram"],
        "more_modes": ["int8 dynamic", "4-bit by 32"],
        "routes": ["onnxruntime", "nncf"],
        "layer_modes": ["int8 histogram", "4-bit by 32"],
        "interactive": False,
    }
    outputs = run_outputs("13_quantize.ipynb", parameters)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    printed = "".join(o.get("text", "") for o in outputs)
    assert "nncf's own" in printed and "inference-workbench[nncf]" in printed
    words = [o.data["text/plain"] for o in outputs if "text/plain" in o.get("data", {})]
    table = next(text for text in words if "size_kib" in text)
    assert all(
        name in table for name in ("float", "int8 histogram", "int8 dynamic", "4-bit by 32", "onnxruntime's own")
    )
    assert "nncf" not in table
    reasons = next(o.data["text/html"] for o in outputs if "reason" in o.get("data", {}).get("text/html", ""))
    assert "OpenVINO has no int8 kernels" in reasons and "only an ONNX file" in reasons
    layers = next(text for text in words if "hidden" in text and "head" in text)
    assert "4-bit by 32" in layers and "int8 dynamic" not in layers
