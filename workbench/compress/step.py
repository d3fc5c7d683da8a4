"""Base of the steps: options, a label, and rules of order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from workbench.core.config import Config
from workbench.core.errors import ConfigError

UNTOUCHED = "accept that the step changes no layer (an error otherwise)"
EXCLUDE = (
    "modules to skip, by name (with everything below it; * and ? match), by type, as 'LayerNorm', or by predicate, as "
    "'file.py:function'"
)
INCLUDE = "modules to consider, by name, type or predicate as in exclude; empty: all"
SECONDS = "time limit of the training; the learning rate is annealed over this time"
RATE = "peak learning rate; None: by the kind of model and training"


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


def refuse_idle(step: Step, *rules: tuple[bool, Sequence[str], str]) -> None:
    """Raise ConfigError for options that were set and have no effect.

    Each rule is ``(condition, option names, remedy)``.
    """
    for idle, names, remedy in rules:
        options = [f"{name}={value!r}" for name, value in step.changed().items() if name in names]
        if idle and options:
            raise ConfigError(f"{type(step).__name__}: {', '.join(options)} would do nothing. {remedy}")
