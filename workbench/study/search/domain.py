"""What may vary in a search: a range, a choice, a step with open options, steps that may be left out."""

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
            raise ConfigError(f"between({self.low}, {self.high}) is empty: the first number must be below the second.")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigError(
                f"between({self.low}, {self.high}, step={self.step}): step must be above 0 and reach no further than "
                f"from one end to the other, {self.high - self.low:g}."
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigError(
                f"between({self.low}, {self.high}, step={self.step}, log=True): a logarithmic range starts above 0 and "
                "has no step."
            )
        if self.whole and self.step is not None and not isinstance(self.step, int):
            raise ConfigError(f"between({self.low}, {self.high}) is of whole numbers; step={self.step} is none.")

    @property
    def whole(self) -> bool:
        """True for whole numbers: both ends are."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def continuous(self) -> bool:
        """True where the range holds more numbers than can be tried."""
        return self.step is None and not self.whole

    def values(self) -> tuple[float, ...]:
        """Return every number of the range in order; of an endless one its two ends."""
        if self.continuous:
            return self.low, self.high
        if self.whole:
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        low, high, step = (decimal.Decimal(str(x)) for x in (self.low, self.high, self.step))
        return tuple(float(low + i * step) for i in range(int((high - low) / step) + 1))

    def nearest(self, value: float) -> float:
        """Return the number of the range that is nearest to ``value``."""
        if self.continuous:
            return min(max(value, self.low), self.high)
        return min(self.values(), key=lambda one: abs(one - value))


@dataclass(frozen=True)
class Choice:
    """One of several values, or of several steps; see :func:`choice`."""

    options: tuple[Any, ...]

    @property
    def continuous(self) -> bool:
        """False: a choice can be gone through."""
        return False

    def values(self) -> tuple[Any, ...]:
        """Return what Optuna chooses from: the values themselves, or words for what is none of a few plain types."""
        found: list[Any] = []
        for option in self.options:
            plain = option is None or isinstance(option, _PLAIN)
            found.append(option if plain else numbered(label(option), found))
        return tuple(found)

    def option(self, value: Any) -> Any:
        """Return what a value of :meth:`values` stands for."""
        for name, option in zip(self.values(), self.options, strict=True):
            if type(name) is type(value) and name == value:
                return option
        raise ConfigError(f"{value!r} is none of {', '.join(map(repr, self.values()))}.")


@dataclass(frozen=True)
class Varied:
    """A step some of whose options are open; see :func:`vary`."""

    step: type[Step]
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Maybe:
    """Steps that stand in the recipe together or not at all; see :func:`maybe`."""

    parts: tuple[Any, ...]


Domain = Between | Choice
Draw = Callable[[str, Domain], Any]
"""Takes the name of a parameter and its domain, and returns one of its values."""


def between(low: float, high: float, *, step: float | None = None, log: bool = False) -> Between:
    """Return the numbers from ``low`` to ``high``, both included: whole ones where both are ``int``.

    Parameters
    ----------
    step : number, optional
        Only ``low``, ``low + step``, and so on; needed to go through a range of fractions as a grid.
    log : bool
        Look as closely at small numbers as at large ones.

    Raises
    ------
    ConfigError
        If the range is empty, or an end is no finite number.

    Examples
    --------
    >>> between(0.25, 0.75, step=0.25).values()
    (0.25, 0.5, 0.75)
    """
    return Between(low, high, step, log)


def choice(*options: Any) -> Choice:
    """Return one of several: plain values for an option, or steps (None: no step, a Recipe: all of its steps).

    Raises
    ------
    ConfigError
        If there is nothing to choose, or one of them twice.

    Examples
    --------
    >>> choice("minmax", "percentile").values()
    ('minmax', 'percentile')
    """
    if not options:
        raise ConfigError("choice() is empty: give what may be chosen, such as choice('minmax', 'percentile').")
    if len(options) == 1 and isinstance(options[0], list | tuple | set):
        raise ConfigError(f"choice takes its options one by one: choice(*{options[0]!r}).")
    made = Choice(tuple(options))
    seen = [(type(option), option) for option in options]
    if twice := [one for place, one in enumerate(seen) if one in seen[:place]]:
        raise ConfigError(f"choice: {given(twice[0][1])} stands in it twice.")
    return made


def vary(step: type[Step] | Step, **options: Any) -> Varied:
    """Return a step with open options: ranges, choices, and fixed values beside them.

    Parameters
    ----------
    step : type or Step
        ``wb.Prune``, or a step whose other options then hold: ``wb.Prune(importance="taylor")``.

    Raises
    ------
    ConfigError
        If the step has no such option, or the option cannot have one of the values.

    Examples
    --------
    >>> from workbench.compress.steps import Prune
    >>> vary(Prune, ratio=between(0.1, 0.8), scope=choice("local", "global")).step.__name__
    'Prune'
    """
    kind = step if isinstance(step, type) else type(step)
    if kind not in STEP_TYPES.values():
        raise ConfigError(f"vary takes a step ({', '.join(STEP_TYPES)}), got {given(step)}.")
    for name, value in options.items():
        for one in representative_values(value):
            check_option(kind, name, one)
    kept = step.changed() if isinstance(step, Step) else {}
    return Varied(kind, tuple({**kept, **options}.items()))


def maybe(*parts: Step | Varied | Choice) -> Maybe:
    """Return steps that the recipe has, all of them, or leaves out.

    Examples
    --------
    >>> from workbench.compress.steps import Prune, Recover
    >>> len(maybe(vary(Prune, ratio=between(0.1, 0.8)), Recover(epochs=2)).parts)
    2
    """
    if not parts:
        raise ConfigError("maybe() is empty: give the steps that may be left out, such as maybe(wb.Quantize()).")
    if any(part is None for part in parts):
        raise ConfigError(
            "maybe(None) leaves nothing out: give the steps that may be left out, as maybe(wb.Quantize())."
        )
    return Maybe(tuple(parts))


def representative_values(value: Any) -> Sequence[Any]:
    """Return the values that stand for all that an option may have: both ends of a range, every choice."""
    if isinstance(value, Between):
        return value.low, value.values()[-1]
    return value.options if isinstance(value, Choice) else (value,)


def numbered(word: str, taken: Collection[Any]) -> str:
    """Return a word that is not taken yet: itself, or with a number behind it."""
    count = 1
    while (name := word if count == 1 else f"{word}#{count}") in taken:
        count += 1
    return name


def label(part: Any) -> str:
    """Return what a part of a space is called in names of parameters."""
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
