"""Inference workbench: how fast, how small and how good a PyTorch model can be on the machine it must run on.

>>> import workbench as wb
>>> task = wb.tasks.digits()
>>> recipe = wb.Recipe(wb.Prune(ratio=0.5), wb.Distill(epochs=3), wb.Quantize())
>>> variant = recipe.apply(task)  # doctest: +SKIP

Everything is loaded on first use, so that ``import workbench`` loads neither torch nor a runtime.
"""

import os
from collections.abc import Callable
from typing import Any

from workbench.core.lazy import attach, bind_late

__version__ = "0.2.0"

# ONNX Runtime reports to its maker and writes a device id into the home folder unless this is set before it starts
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = attach(__name__, __file__)


def _apply() -> Callable[..., Any]:
    from workbench.compress.apply import apply

    return apply


def _save_variant() -> Callable[..., Any]:
    from workbench.artifact.save import save_variant

    return save_variant


bind_late("Recipe.apply", _apply)
bind_late("Variant.save", _save_variant)
