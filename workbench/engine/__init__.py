"""Run a model through one of the backends. Light: names are imported from their modules when first used."""

from __future__ import annotations

from typing import Any

from workbench.core.lazy import attribute

_HOMES = {
    "OptimizedInferenceEngine": "engine",
    "InferenceConfig": "config",
    "QuantizationConfig": "config",
    "Precision": "precision",
    "InferenceMetrics": "result",
    "InferenceResult": "result",
    "TuneResult": "tuned",
    "TunedSetting": "tuned",
    "backend_status": "backends",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return attribute(f"{__name__}.{_HOMES[name]}", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
