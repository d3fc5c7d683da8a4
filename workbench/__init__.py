"""Inference workbench: how fast, how small and how good a PyTorch model can be on the machine it must run on.

>>> import workbench as wb
>>> task = wb.tasks.digits()
>>> recipe = wb.Recipe(wb.Prune(ratio=0.5), wb.Distill(epochs=3), wb.Quantize())
>>> variant = recipe.apply(task)  # doctest: +SKIP

Everything is loaded on first use, so that ``import workbench`` loads neither torch nor a runtime.
"""

import os

from workbench.core.lazy import attach

__version__ = "0.1.0"

# ONNX Runtime reports to its maker and writes a device id into the home folder unless this is set before it starts
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = attach(__name__, __file__)
