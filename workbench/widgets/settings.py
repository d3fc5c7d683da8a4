"""Settings of a run that are not part of a recipe, shown as a form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.core.config import Config, from_dict, option
from workbench.core.errors import ConfigError

QUICK_TASKS = ("digits",)


@dataclass(frozen=True)
class RunSettings(Config):
    """Settings of a run: batch sizes, threads, quality limit and time budget."""

    batch_sizes: tuple[int, ...] = option((1, 8, 32), "samples in one call; each size is timed on its own")
    threads: int | None = option(None, "CPU threads of every engine; empty: the cores allowed here", minimum=1)
    quality_drop: float = option(
        0.01, "largest loss accepted, in the metric's units: 0.01 is one point of accuracy", minimum=0.0
    )
    budget_s: float = option(1200.0, "for the whole run; training lengths follow it", minimum=10.0, unit="s")

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.batch_sizes
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ConfigError(
                "RunSettings.batch_sizes must be different whole numbers of at least 1, such as 1, 8, 32; "
                f"got {', '.join(map(str, sizes)) or 'none'}."
            )

    @classmethod
    def for_task(cls, name: str, given: Mapping[str, Any]) -> RunSettings:
        """Return the settings for a task: 200 s for the built-in digits, 1,200 s for others, then what is ``given``."""
        usual = cls(budget_s=200.0) if name in QUICK_TASKS else cls()
        return from_dict(cls, {**usual.to_dict(), **given})

    def options(self) -> dict[str, Any]:
        """Return the settings as arguments of :meth:`Study.run`."""
        return {"batch_sizes": self.batch_sizes, **{k: v for k, v in self.to_dict().items() if k != "batch_sizes"}}
