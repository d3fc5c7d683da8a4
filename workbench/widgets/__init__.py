"""The panel and its forms: a view over tasks, recipes and studies. Importing this room loads no ipywidgets."""

from __future__ import annotations

from typing import Any

from workbench.core.lazy import attribute

_HOMES = {"Form": "workbench.widgets.form", "Workbench": "workbench.widgets.panel"}

__all__ = ["Form", "Workbench"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return attribute(_HOMES[name], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
