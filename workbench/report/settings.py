"""Settings of a report, validated before work starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

from workbench.core.config import Config, option
from workbench.core.errors import ConfigError
from workbench.engine.backends import backend_status
from workbench.engine.names import is_backend, unknown_backend

DEFAULT_BUDGET_S = 1200.0
TASK_BUDGET_S = {"digits": 200.0}
RESERVE_S = 15.0  # start of the kernel, loading, drawing and writing: not part of the study's budget
DRAW_S = 8.0  # the part of it after the study
LEAST_BUDGET_S = 30.0
LEAST_STUDY_S = 5.0
LONG_BUDGET_S = 600.0


@dataclass(frozen=True)
class ReportSettings(Config):
    """Settings of a report; an empty or zero value selects the default.

    Examples
    --------
    >>> ReportSettings(task="digits").budget
    200.0
    """

    task: str = option("digits", "built-in name, path/to/file.py:function, or package.module:function")
    output_dir: str = option("reports/digits", "folder of trials.jsonl and, by default, of the study's database")
    storage: str = option("", "database URL of the study; empty: study.db in the output folder")
    budget_s: float = option(0, "seconds for the whole report; 0: 200 for digits, 1,200 for others", minimum=0)
    batch_sizes: tuple[int, ...] = option((1, 8, 32), "samples per call; each size is measured separately")
    backends: tuple[str, ...] = option((), "backends to time; empty: torch-eager, onnxruntime, openvino")
    baseline: str = option("torch-eager", "backend of the float model that speedups are measured against")
    quality_drop: float = option(0.01, "largest acceptable quality drop, in the metric's units", minimum=0)
    threads: int = option(0, "CPU threads of every engine; 0: the physical cores allowed here", minimum=0)
    seed: int = option(0, "random seed of the recipes", minimum=0)
    started_at: float = option(0, "start of the time budget, in seconds since 1970; 0: now", minimum=0)
    interactive: bool = option(False, "show the panel at the end; not if run headless")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task.strip():
            raise ConfigError("ReportSettings.task must not be empty. Give a task, such as 'digits'.")
        if 0 < self.budget_s < LEAST_BUDGET_S:
            raise ConfigError(
                f"ReportSettings.budget_s must be 0 (default) or at least {LEAST_BUDGET_S:g} seconds, "
                f"got {self.budget_s:g}."
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
        """Reference rows; torch.compile needs a long budget, because it compiles for a minute or more."""
        compiled = self.budget >= LONG_BUDGET_S and backend_status(["torch-compile"])[0].available
        return ("torch-default", "torch-compile") if compiled else ("torch-default",)

    @property
    def budget(self) -> float:
        """Seconds for the whole report."""
        return float(self.budget_s) or TASK_BUDGET_S.get(self.task, DEFAULT_BUDGET_S)

    @property
    def study_budget(self) -> float:
        """Seconds for the plan of recipes; the same in every run, so that a second run reuses the trials."""
        return self.budget - RESERVE_S

    def seconds_left(self) -> float:
        """Return the study's remaining seconds: less than planned after a slow start."""
        if not self.started_at:
            return self.study_budget
        left = self.budget - DRAW_S - (time.time() - self.started_at)
        return max(LEAST_STUDY_S, min(left, self.study_budget))

    @property
    def batch_size(self) -> int:
        """The batch size of the recommendation: 32 if it is measured, else the largest."""
        return 32 if 32 in self.batch_sizes else max(self.batch_sizes)
