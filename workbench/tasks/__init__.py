"""Tasks: what a model must do, with which data, and how well it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

if TYPE_CHECKING:
    from workbench.tasks.builtin import digits as digits
    from workbench.tasks.builtin import digits_vit as digits_vit
    from workbench.tasks.load import load_task as load_task
    from workbench.tasks.sentences import minilm as minilm
    from workbench.tasks.split import Split as Split
    from workbench.tasks.task import Task as Task

_HOMES = {
    "Task": "task",
    "Split": "split",
    "digits": "builtin",
    "digits_vit": "builtin",
    "minilm": "sentences",
    "load_task": "load",
}
__all__ = ["Split", "Task", "digits", "digits_vit", "load_task", "minilm"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return attribute(f"{__name__}.{_HOMES[name]}", name)


def __dir__() -> list[str]:
    return sorted(__all__)
