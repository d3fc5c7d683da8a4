"""The parameters of the report notebook, checked before any work starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

from workbench.core.config import Config, option
from workbench.core.errors import ConfigError
from workbench.engine.backends import backend_status
from workbench.engine.names import is_backend, unknown_backend

DEFAULT_BUDGET_S = 1200.0
TASK_BUDGET_S = {"digits": 200.0}
RESERVE_S = 15.0  # starting the kernel, loading the task, drawing and writing: not the study's to spend
DRAW_S = 8.0  # the part of it that comes after the study
LEAST_BUDGET_S = 30.0
LEAST_STUDY_S = 5.0
LONG_BUDGET_S = 600.0


@dataclass(frozen=True)
class ReportSettings(Config):
    """What a report is asked. An empty or zero value means: choose for me.

    Examples
    --------
    >>> ReportSettings(task="digits").budget
    200.0
    """

    task: str = option("digits", "built-in name, path/to/file.py:function, or package.module:function")
    output_dir: str = option("reports/digits", "folder of trials.jsonl and, by default, of the study's database")
    storage: str = option("", "database URL of the study; empty: study.db in the output folder")
    budget_s: float = option(0, "seconds for the whole report; 0: 200 for digits, 1,200 for others", minimum=0)
    batch_sizes: tuple[int, ...] = option((1, 8, 32), "samples in one call; each size is measured on its own")
    backends: tuple[str, ...] = option((), "runtimes to try; empty: torch-eager, onnxruntime, openvino")
    baseline: str = option("torch-eager", "backend of the float model that speedups are measured against")
    quality_drop: float = option(0.01, "largest acceptable loss of quality, in the metric's units", minimum=0)
    threads: int = option(0, "CPU threads of every engine; 0: the physical cores allowed here", minimum=0)
    seed: int = option(0, "fixes every random choice of the recipes", minimum=0)
    started_at: float = option(0, "when the whole was asked for, in seconds since 1970; 0: now", minimum=0)
    interactive: bool = option(False, "show the panel at the end; never when run headless")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task.strip():
            raise ConfigError("ReportSettings.task is empty: name a task, for example 'digits'.")
        if 0 < self.budget_s < LEAST_BUDGET_S:
            raise ConfigError(
                f"ReportSettings.budget_s must be 0 (choose for me) or at least {LEAST_BUDGET_S:g} seconds, "
                f"got {self.budget_s:g}: loading and drawing alone take half of that."
            )
        sizes = self.batch_sizes
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ConfigError(
                f"ReportSettings.batch_sizes must be different whole numbers of at least 1, got {list(sizes)}."
            )
        for name in (*self.backends, self.baseline):
            if not is_backend(name):
                raise ConfigError(unknown_backend(name))

    @property
    def references(self) -> tuple[str, ...]:
        """What is timed beside the baseline; torch.compile compiles for a minute or more, so it takes a long budget."""
        compiled = self.budget >= LONG_BUDGET_S and backend_status(["torch-compile"])[0].available
        return ("torch-default", "torch-compile") if compiled else ("torch-default",)

    @property
    def budget(self) -> float:
        """Seconds for the whole report."""
        return float(self.budget_s) or TASK_BUDGET_S.get(self.task, DEFAULT_BUDGET_S)

    @property
    def study_budget(self) -> float:
        """Seconds that recipes are planned for; the same in every run, so that a second one finds the trials."""
        return self.budget - RESERVE_S

    def seconds_left(self) -> float:
        """Return the seconds that the study may still take: less than planned where starting took long."""
        if not self.started_at:
            return self.study_budget
        left = self.budget - DRAW_S - (time.time() - self.started_at)
        return max(LEAST_STUDY_S, min(left, self.study_budget))

    @property
    def batch_size(self) -> int:
        """The batch size of the recommendation: 32 where it is measured, else the largest."""
        return 32 if 32 in self.batch_sizes else max(self.batch_sizes)
