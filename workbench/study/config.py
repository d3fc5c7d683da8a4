"""Options of runs and searches: the one place of their defaults, bounds and help texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from workbench.core.config import Config, option
from workbench.core.errors import ConfigError, StudyError, unknown_name

C = TypeVar("C", bound=Config)

QUALITY_DROP = 0.01
"""Default limit of the quality drop, in the metric's units."""
PRIMARY_BATCH = 32
BASELINE_BACKEND = "torch-eager"
STALL_TIMEOUT_S = 1800.0
"""Compiling a large model can take many minutes without reported progress."""
BUDGET_S = 1200.0
"""Time budget of a report or panel, and of a default plan without one."""
TASK_BUDGET_S = {"digits": 200.0}


class ReferenceKind(NamedTuple):
    """A kind of reference row, the float model in torch next to the faster baseline: its label, backend and options."""

    words: str
    backend: str
    options: tuple[tuple[str, Any], ...] = ()


REFERENCES = {
    "torch-default": ReferenceKind("as commonly started", "torch-eager", (("allocator", "default"),)),
    "torch-compile": ReferenceKind("torch.compile", "torch-compile"),
}
"""By their name; they separate the gain of the allocator, or of a compiler, from that of the compression."""


def checked_references(names: Sequence[str]) -> tuple[ReferenceKind, ...]:
    """Return the kinds of references by their names; StudyError for an unknown one."""
    for name in names:
        if name not in REFERENCES:
            raise StudyError(unknown_name("reference", name, REFERENCES))
    return tuple(REFERENCES[name] for name in dict.fromkeys(names))


def primary_batch(sizes: Sequence[int]) -> int:
    """Return the batch size that is timed first and recommended for: 32 if it is one of ``sizes``, else the largest."""
    return PRIMARY_BATCH if PRIMARY_BATCH in sizes else max(sizes)


def default_budget_s(task: str) -> float:
    """Return the time budget of a report or panel for a task."""
    return TASK_BUDGET_S.get(task, BUDGET_S)


def check_batch_sizes(config: Any) -> None:
    """Refuse a config whose ``batch_sizes`` are not different and at least 1."""
    sizes = config.batch_sizes
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ConfigError(
            f"{type(config).__name__}.batch_sizes must be different whole numbers of at least 1, such as 1, 8, 32; "
            f"got {', '.join(map(str, sizes)) or 'none'}."
        )


@dataclass(frozen=True)
class RunConfig(Config):
    """Options of :meth:`Study.run`. Command-line flags, forms and notebook parameters are made from them.

    Examples
    --------
    >>> RunConfig(batch_sizes=[1, 8]).primary_batch
    8
    """

    backends: tuple[str, ...] | None = option(
        None, "backends to time; by default those of torch-eager, onnxruntime and openvino that run here"
    )
    batch_sizes: tuple[int, ...] = option(
        (1, 8, 32), "samples per call; all recipes are timed first at 32 if it is one of them, else at the largest"
    )
    threads: int | None = option(
        None, "CPU threads of every engine; by default the physical cores that this process may use", minimum=1
    )
    quality_drop: float = option(
        QUALITY_DROP,
        "largest acceptable drop of quality, in the metric's units: 0.01 is one point of accuracy",
        minimum=0,
    )
    budget_s: float | None = option(
        None, "time budget; it sets the length of trainings, and trials that do not fit are not run", above=0, unit="s"
    )
    shapes: Mapping[str, Any] | None = option(
        None,
        "sizes of dynamic dimensions of Task(dynamic=...), such as {'sequence': [16, 64]}; lists of several dimensions "
        "are paired by position",
        advanced=True,
    )
    baseline: str = option(
        BASELINE_BACKEND, "backend of the float model that speedups are measured against", advanced=True
    )
    references: tuple[str, ...] = option(
        (),
        "float models to time without ranking them: torch-default (torch as commonly started), torch-compile",
        advanced=True,
    )
    seed: int = option(0, "seed of the recipes of the default plan", minimum=0, advanced=True)
    stall_timeout_s: float | None = option(
        STALL_TIMEOUT_S, "longest time without progress of a worker, which is then killed", above=0, unit="s",
        advanced=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_batch_sizes(self)
        if self.backends == ():
            raise ConfigError("RunConfig.backends is empty. Give at least one, or None for the default.")

    @property
    def primary_batch(self) -> int:
        """The batch size that is timed first and recommended for."""
        return primary_batch(self.batch_sizes)


@dataclass(frozen=True)
class SearchConfig(Config):
    """Options of :meth:`Study.search`."""

    sampler: str = option(
        "tpe",
        "tpe, random, grid (each point of a finite space, in random order), or nsga2 (recombines points; needs several "
        "varied options)",
        choices=("tpe", "random", "grid", "nsga2"),
    )
    trials: int = option(30, "number of distinct points to try, including those of interrupted calls", minimum=1)
    budget_s: float | None = option(
        None,
        "time budget of the call; points whose training does not fit are replaced by cheaper ones",
        above=0,
        unit="s",
    )
    seed: int = option(0, "seed of the sampler", minimum=0)
    threads: int | None = option(
        None, "CPU threads of the baseline and of every engine unless the space varies them", minimum=1
    )
    prune: bool = option(
        True,
        "do not time points whose validation quality or file size misses a goal; their rows have the state `pruned`",
    )
    stall_timeout_s: float | None = option(
        STALL_TIMEOUT_S, "longest time without progress of a worker, which is then killed", above=0, unit="s",
        advanced=True,
    )  # fmt: skip


def configured(cls: type[C], config: C | None, options: Mapping[str, Any]) -> C:
    """Return ``config``, or else the defaults of ``cls``, with some options changed and checked."""
    if config is not None and not isinstance(config, cls):
        raise ConfigError(f"config must be a {cls.__name__}, got {config!r}.")
    return (cls() if config is None else config).replace(**options)
