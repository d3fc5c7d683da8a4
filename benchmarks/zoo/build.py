"""Builders of other packages' models; the packages are imported when a model is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn


def from_pytorchcv(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a class of pytorchcv."""
    return lambda: getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)(**options)


def from_transformers(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a model of transformers from a config."""

    def build() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return made

    return build
