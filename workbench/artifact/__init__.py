"""Variants on disk. Light: names are imported from their modules when first used."""

from __future__ import annotations

from typing import Any

from workbench.core.lazy import attribute

_HOMES = {
    "Artifact": "artifact",
    "open_artifact": "artifact",
    "Reference": "reference",
    "save_variant": "save",
    "load_module": "load",
    "load_variant": "restore",
    "InferenceModel": "restore",
    "PrefixCache": "cache",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return attribute(f"{__name__}.{_HOMES[name]}", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
