"""Settings of a report, validated before work starts."""

from __future__ import annotations

import time
from dataclasses import dataclass

from workbench.core.config import Config, option, option_of
from workbench.core.errors import ConfigError
from workbench.engine.names import is_backend, unknown_backend
from workbench.study.config import RunConfig, check_batch_sizes, default_budget_s, primary_batch

RESERVE_S = 15.0  # start of the kernel, loading, drawing and writing
DRAW_S = 8.0  # the part of it after the study
LEAST_BUDGET_S = 30.0
LEAST_STUDY_S = 5.0
LONG_BUDGET_S = 600.0


@dataclass(frozen=True)
class ReportSettings(Config):
    """Parameters of a report; those of :class:`RunConfig` as notebook literals: empty or 0 stands for the default.

    Examples
    --------
    >>> ReportSettings(task="digits").budget
    200.0
    """

    task: str = option("digits", "built-in name, path/to/file.py:function, or package.module:function")
    output_dir: str = option("reports/digits", "folder of trials.jsonl and, by default, of the study's database")
    storage: str = option("", "database URL of the study; empty: study.db in the output folder")
    budget_s: float = option(0, "seconds for the whole report; 0: 200 for digits, 1,200 for others", minimum=0)
    batch_sizes: tuple[int, ...] = option_of(RunConfig, "batch_sizes")
    backends: tuple[str, ...] = option_of(RunConfig, "backends", default=())
    baseline: str = option_of(RunConfig, "baseline")
    quality_drop: float = option_of(RunConfig, "quality_drop")
    threads: int = option_of(
        RunConfig, "threads", default=0, minimum=0, help="CPU threads of every engine; 0: the physical cores"
    )
    seed: int = option_of(RunConfig, "seed")
    started_at: float = option(0, "start time of the command (s since 1970); 0: now", minimum=0)
    interactive: bool = option(False, "show the panel at the end; has no effect headless")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task.strip():
            raise ConfigError("ReportSettings.task must not be empty. Give a task, such as 'digits'.")
        if 0 < self.budget_s < LEAST_BUDGET_S:
            raise ConfigError(
                f"ReportSettings.budget_s must be 0 (the default) or at least {LEAST_BUDGET_S:g} seconds, "
                f"got {self.budget_s:g}."
            )
        for name in (*self.backends, self.baseline):
            if not is_backend(name):
                raise ConfigError(unknown_backend(name))
        check_batch_sizes(self)

    @property
    def run_config(self) -> RunConfig:
        """The options of the study's run, with the budget that is left now."""
        return RunConfig(
            backends=self.backends or None,
            batch_sizes=self.batch_sizes,
            threads=self.threads or None,
            quality_drop=self.quality_drop,
            budget_s=self.seconds_left(),
            baseline=self.baseline,
            references=self.references,
            seed=self.seed,
        )

    @property
    def references(self) -> tuple[str, ...]:
        """The reference rows; torch.compile takes a minute or more to compile, so it needs a long budget."""
        from workbench.engine.backends import backend_status  # the command line needs the options alone

        compiled = self.budget >= LONG_BUDGET_S and backend_status(["torch-compile"])[0].available
        return ("torch-default", "torch-compile") if compiled else ("torch-default",)

    @property
    def budget(self) -> float:
        """Seconds for the whole report."""
        return float(self.budget_s) or default_budget_s(self.task)

    @property
    def study_budget(self) -> float:
        """Seconds for the plan of recipes; the same in every run, so that a second run reuses the trials."""
        return self.budget - RESERVE_S

    def seconds_left(self) -> float:
        """Return the seconds left for the study: less than planned if starting took long."""
        if not self.started_at:
            return self.study_budget
        left = self.budget - DRAW_S - (time.time() - self.started_at)
        return max(LEAST_STUDY_S, min(left, self.study_budget))

    @property
    def batch_size(self) -> int:
        """The batch size of the recommendation."""
        return primary_batch(self.batch_sizes)
