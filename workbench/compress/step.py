"""What every step has: a label, and rules about what may come before and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from workbench.core.config import Config
from workbench.core.errors import ConfigError

UNTOUCHED = "let the step pass although it changes no layer (otherwise that is an error)"
EXCLUDE = (
    "modules to leave alone, by name (covers everything below it; * and ? match), type, as 'LayerNorm', or predicate, "
    "as 'file.py:function'"
)
INCLUDE = "modules to look at, by name, type or predicate as in exclude; empty: all of them"
SECONDS = "wall-clock limit of the training; the learning rate then anneals over the time, not the epochs"
RATE = "peak learning rate; None chooses one for the kind of model and of training"


class Step(Config):
    """Base of the steps of a recipe: frozen options, and rules of order by the names of other steps.

    ``not_after`` says after which steps this one cannot stand, and why; ``not_right_after`` the same of the step just
    before it. ``not_before`` names the steps that cannot follow it: the other end of their ``not_after``, so that one
    sees it from either side. ``needs`` names steps of which one must have come before, and ``needs_why`` says why.
    """

    not_after: ClassVar[Mapping[str, str]] = {}
    not_right_after: ClassVar[Mapping[str, str]] = {}
    not_before: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    needs_why: ClassVar[str] = ""
    allow_untouched: bool

    @property
    def label(self) -> str:
        """A few words for tables and charts: ``"prune 0.5"``, ``"int8 qat"``."""
        return type(self).__name__.lower()

    def placement_error(self, before: Sequence[str]) -> str | None:
        """Return why a step with these options cannot come after the steps named; None if it can."""
        return None

    @property
    def training_option(self) -> str | None:
        """The option for which the step reads the training split, as ``"epochs=3"``; None if it reads none of it."""
        return None

    @property
    def measured_on(self) -> tuple[str, int] | None:
        """Engine and batch size whose measured cost the step goes by; None where it needs no measurement."""
        return None


def check_patterns(step: str, **options: Any) -> None:
    """Refuse functions among name patterns: a step is kept as JSON, where a function can only stand by reference."""
    for option, entries in options.items():
        found = entries if isinstance(entries, Iterable) and not isinstance(entries, str) else (entries,)
        for entry in found:
            if callable(entry):
                raise ConfigError(
                    f"{step}.{option}: {getattr(entry, '__name__', entry)!r} is a function, and a recipe is kept as "
                    "JSON, which holds none. Write it in a file and give the reference 'file.py:function' or "
                    "'module:function'; it is called as function(name, module) and returns True or False."
                )


def refuse_idle(step: Step, *rules: tuple[bool, Sequence[str], str]) -> None:
    """Refuse options that were set and would do nothing: ``(whether they are idle, their names, what to do)``."""
    for idle, names, advice in rules:
        found = [f"{name}={value!r}" for name, value in step.changed().items() if name in names]
        if idle and found:
            raise ConfigError(f"{type(step).__name__}: {', '.join(found)} would do nothing. {advice}")


AFTER_QUANTIZE = {
    "Quantize": (
        "Quantize must be the last step: its integer graph can be neither trained nor cut. To train with rounding "
        "simulated, use Quantize(qat_epochs=...)."
    )
}
