"""Base of the steps (options, label, rules of order), and the schedules of steps in rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import exp, nan
from typing import ClassVar

from workbench.core.config import Config
from workbench.core.errors import ConfigError

UNTOUCHED = "allow that the step changes no layer; otherwise this is an error"
EXCLUDE = (
    "modules to skip: by name (submodules included; * and ? are wildcards), by type, such as 'LayerNorm', or by "
    "predicate, as 'file.py:function'"
)
INCLUDE = "modules to consider, by name, type or predicate as in exclude; empty: all"
SECONDS = "time limit of the training; the learning rate is annealed over this time"
RATE = "peak learning rate; None: default for the kind of model and training"
SCHEDULES = ("even", "cubic", "one_cycle")
# Slope and start of the one-cycle curve, as in fasterai.
_SLOPE, _START = 14.0, 6.0


class Step(Config):
    """Base of the steps of a recipe: frozen options, and rules of order by the names of other steps.

    ``not_after`` maps steps that must not come before this one to the reason, ``not_right_after`` the step directly
    before. ``needs`` names steps of which one must come before; ``needs_why`` is the reason.
    """

    not_after: ClassVar[Mapping[str, str]] = {
        "Quantize": (
            "Quantize must be the last step: its integer graph can be neither trained nor cut. To train with simulated "
            "rounding, use Quantize(qat_epochs=...)."
        )
    }
    not_right_after: ClassVar[Mapping[str, str]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    needs_why: ClassVar[str] = ""
    allow_untouched: bool

    def __post_init__(self) -> None:
        for option in ("include", "exclude"):
            entries = getattr(self, option, ())
            for entry in entries if isinstance(entries, Iterable) and not isinstance(entries, str) else (entries,):
                if callable(entry):
                    raise ConfigError(
                        f"{type(self).__name__}.{option}: {getattr(entry, '__name__', entry)!r} is a function, which "
                        "JSON cannot hold. Write it in a file and give the reference 'file.py:function'; it is called "
                        "as function(name, module) -> bool."
                    )
        super().__post_init__()

    @property
    def label(self) -> str:
        """Short label for tables and charts: ``"prune 0.5"``, ``"int8 qat"``."""
        return type(self).__name__.lower()

    def placement_error(self, before: Sequence[str]) -> str | None:
        """Return why a step with these options cannot come after the named steps; None if it can."""
        return None

    @property
    def training_option(self) -> str | None:
        """The option that needs the training split, as ``"epochs=3"``; None if the step does not read it."""
        return None

    @property
    def measured_on(self) -> tuple[str, int] | None:
        """Engine and batch size of the latency that the step needs; None if it needs none."""
        return None


def number_in(text: str) -> float:
    """Return the number that a text holds; NaN, which no bound admits, if it holds none."""
    try:
        return float(text)
    except ValueError:
        return nan


def refuse_idle(step: Step, *rules: tuple[bool, Sequence[str], str]) -> None:
    """Raise ConfigError for options that were set and have no effect.

    Each rule is ``(condition, option names, remedy)``.
    """
    for idle, names, remedy in rules:
        options = [f"{name}={value!r}" for name, value in step.changed().items() if name in names]
        if idle and options:
            raise ConfigError(f"{type(step).__name__}: {', '.join(options)} would do nothing. {remedy}")


def scheduled_share(schedule: str, time: float) -> float:
    """Return the share of the final ratio at ``time``, the share of the rounds done.

    ``even``: in proportion. ``cubic``: large rounds first (Zhu and Gupta, To prune, or not to prune, arXiv
    1710.01878). ``one_cycle``: small rounds at both ends, large ones in between (Hubens et al., One-Cycle Pruning,
    arXiv 2107.02086).

    Examples
    --------
    >>> scheduled_share("cubic", 0.5), scheduled_share("one_cycle", 1.0)
    (0.875, 1.0)
    """
    if schedule == "cubic":
        return 1 - (1 - time) ** 3
    if schedule == "one_cycle":
        return (1 + exp(_START - _SLOPE)) / (1 + exp(_START - _SLOPE * time))
    return time
