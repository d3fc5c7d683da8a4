"""Settings of a run that are not part of a recipe, shown as a form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.core.config import Config, from_dict, option_of
from workbench.study.config import BUDGET_S, RunConfig, check_batch_sizes, default_budget_s


@dataclass(frozen=True)
class RunSettings(Config):
    """The options of :class:`RunConfig` that a panel shows."""

    batch_sizes: tuple[int, ...] = option_of(RunConfig, "batch_sizes")
    threads: int | None = option_of(RunConfig, "threads")
    quality_drop: float = option_of(RunConfig, "quality_drop")
    budget_s: float = option_of(RunConfig, "budget_s", default=BUDGET_S, above=None, minimum=10.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_batch_sizes(self)

    @classmethod
    def for_task(cls, name: str, given: Mapping[str, Any]) -> RunSettings:
        """Return the default settings for a task, with what is ``given``."""
        return from_dict(cls, {"budget_s": default_budget_s(name), **given})
