"""Search domains: ranges and choices (Optuna's float, int and categorical), varied steps, and optional steps."""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import STEP_TYPES, Step
from workbench.core.checks import given
from workbench.core.config import check_option
from workbench.core.errors import ConfigError

_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class Between:
    """Numbers from ``low`` to ``high``, both included; see :func:`between`."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high), ("step", self.step)):
            if value is None and name == "step":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"between: {name} must be a finite number, got {given(value)}.")
        if not isinstance(self.log, bool):
            raise ConfigError(f"between: log must be True or False, got {given(self.log)}.")
        if not self.low < self.high:
            raise ConfigError(f"between: low must be below high, got {self.low} and {self.high}.")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            span = self.high - self.low
            raise ConfigError(f"between: step must be above 0 and at most high - low, {span:g}, got {self.step}.")
        if self.log and (self.low <= 0 or self.step is not None):
            values = f"low={self.low}, step={self.step}"
            raise ConfigError(f"between: a logarithmic range must start above 0 and have no step, got {values}.")
        if self.whole and self.step is not None and not isinstance(self.step, int):
            raise ConfigError(f"between: step must be an integer if low and high are integers, got {self.step}.")

    @property
    def whole(self) -> bool:
        """True if both ends are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def continuous(self) -> bool:
        """True for a range of fractions without a step."""
        return self.step is None and not self.whole

    def values(self) -> tuple[float, ...]:
        """Return every number of the range in order, or both ends of a continuous range."""
        if self.continuous:
            return self.low, self.high
        if self.whole:
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        low, high, step = (decimal.Decimal(str(x)) for x in (self.low, self.high, self.step))
        return tuple(float(low + i * step) for i in range(int((high - low) / step) + 1))

    def nearest(self, value: float) -> float:
        """Return the number of the range nearest to ``value``."""
        if self.continuous:
            return min(max(value, self.low), self.high)
        return min(self.values(), key=lambda one: abs(one - value))


@dataclass(frozen=True)
class Choice:
    """One of several values, or of several steps; see :func:`choice`."""

    options: tuple[Any, ...]

    @property
    def continuous(self) -> bool:
        """False: a choice is finite."""
        return False

    def values(self) -> tuple[Any, ...]:
        """Return the categories for Optuna: plain values as they are, other options as labels."""
        categories: list[Any] = []
        for option in self.options:
            plain = option is None or isinstance(option, _PLAIN)
            categories.append(option if plain else unique_name(label(option), categories))
        return tuple(categories)

    def option(self, value: Any) -> Any:
        """Return the option of one of :meth:`values`."""
        for name, option in zip(self.values(), self.options, strict=True):
            if type(name) is type(value) and name == value:
                return option
        raise ConfigError(f"A choice must be one of {', '.join(map(repr, self.values()))}, got {value!r}.")


@dataclass(frozen=True)
class Varied:
    """A step with open options; see :func:`vary`."""

    step: type[Step]
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Maybe:
    """Optional steps; see :func:`maybe`."""

    parts: tuple[Any, ...]


Domain = Between | Choice
Draw = Callable[[str, Domain], Any]
"""Maps the name of a parameter and its domain to one of its values, as ``trial.suggest_*`` does."""


def between(low: float, high: float, *, step: float | None = None, log: bool = False) -> Between:
    """Return a range from ``low`` to ``high``, both included; of integers if both are ``int``.

    Parameters
    ----------
    step : number, optional
        Only ``low``, ``low + step``, and so on; a grid over fractions needs it.
    log : bool
        Sample on a logarithmic scale.

    Examples
    --------
    >>> between(0.25, 0.75, step=0.25).values()
    (0.25, 0.5, 0.75)
    """
    return Between(low, high, step, log)


def choice(*options: Any) -> Choice:
    """Return a choice of plain values for an option, or of steps (None: no step, a Recipe: all of its steps).

    Examples
    --------
    >>> choice("minmax", "percentile").values()
    ('minmax', 'percentile')
    """
    if not options:
        raise ConfigError("choice must have options, got none. Write choice('minmax', 'percentile').")
    if len(options) == 1 and isinstance(options[0], list | tuple | set):
        raise ConfigError(f"choice must get its options one by one. Write choice(*{options[0]!r}).")
    typed = [(type(option), option) for option in options]
    if duplicates := [one for place, one in enumerate(typed) if one in typed[:place]]:
        raise ConfigError(f"choice: options must differ, got {given(duplicates[0][1])} twice.")
    return Choice(tuple(options))


def vary(step: type[Step] | Step, **options: Any) -> Varied:
    """Return a step with open options: ranges, choices, and fixed values.

    Parameters
    ----------
    step : type or Step
        ``wb.Prune``, or a step that fixes other options: ``wb.Prune(importance="taylor")``.

    Examples
    --------
    >>> from workbench.compress.steps import Prune
    >>> vary(Prune, ratio=between(0.1, 0.8), scope=choice("local", "global")).step.__name__
    'Prune'
    """
    kind = step if isinstance(step, type) else type(step)
    if kind not in STEP_TYPES.values():
        raise ConfigError(f"vary: step must be one of {', '.join(STEP_TYPES)}, got {given(step)}.")
    for name, value in options.items():
        for one in representative_values(value):
            check_option(kind, name, one)
    fixed = step.changed() if isinstance(step, Step) else {}
    return Varied(kind, tuple({**fixed, **options}.items()))


def maybe(*parts: Step | Varied | Choice) -> Maybe:
    """Return optional steps: a recipe has all of them, or none.

    Examples
    --------
    >>> from workbench.compress.steps import Prune, Recover
    >>> len(maybe(vary(Prune, ratio=between(0.1, 0.8)), Recover(epochs=2)).parts)
    2
    """
    if not parts or any(part is None for part in parts):
        raise ConfigError(f"maybe must have steps, got {parts!r}. Write maybe(wb.Quantize()).")
    return Maybe(tuple(parts))


def representative_values(value: Any) -> Sequence[Any]:
    """Return the values to validate: both ends of a range, every choice, or the fixed value."""
    if isinstance(value, Between):
        return value.low, value.values()[-1]
    return value.options if isinstance(value, Choice) else (value,)


def unique_name(word: str, used: Collection[Any]) -> str:
    """Return ``word``, with a number if it is used already."""
    count = 1
    while (name := word if count == 1 else f"{word}#{count}") in used:
        count += 1
    return name


def label(part: Any) -> str:
    """Return the label of a part of a space, for names of parameters."""
    if isinstance(part, Varied):
        return part.step.__name__
    if isinstance(part, Recipe):
        return part.name or part.label
    if isinstance(part, Step):
        return part.label
    if isinstance(part, Maybe):
        return label(part.parts[0])
    if isinstance(part, Choice):
        return " or ".join(label(option) for option in part.options)
    return "nothing" if part is None else str(part)
