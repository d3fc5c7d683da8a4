"""Checks of arguments: a wrong type is said before work starts, with what was given and what to give instead."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.core.errors import ConfigError, InputError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def short(value: object) -> str:
    """Return the repr of a value, cut if it is long.

    Examples
    --------
    >>> short("extra")
    "'extra'"
    """
    return _SHORT.repr(value)


def given(value: object) -> str:
    """Return a value for a message, in few words.

    Examples
    --------
    >>> given("digits"), given(None)
    ("'digits' (str)", 'None')
    """
    return "None" if value is None else f"{_SHORT.repr(value)} ({type(value).__name__})"


def require_path(where: str, value: Any, *, error: type[Exception] = ConfigError) -> Path:
    """Return a path, or raise ``error`` where ``value`` is neither text nor a path, or empty."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise error(f"{where} must be a folder as text or Path, got {given(value)}. Write 'path/to/folder'.")
    return Path(value)


def require_count(where: str, value: Any, *, minimum: int = 1) -> int:
    """Return a whole number of at least ``minimum``, or raise ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{where} must be an integer of at least {minimum}, got {given(value)}.")
    return value


def require_milliseconds(where: str, value: Any) -> float:
    """Return a finite number of at least 0, or raise ConfigError."""
    return require_not_negative(where, value, of="milliseconds")


def require_not_negative(where: str, value: Any, *, of: str) -> float:
    """Return a finite number of at least 0, or raise ConfigError; ``of`` names its unit: ``"seconds"``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 <= value < math.inf):
        raise ConfigError(f"{where} must be a number of {of} of at least 0, got {given(value)}.")
    return float(value)


def require_above_zero(where: str, value: Any, *, of: str) -> float:
    """Return a finite number above 0, or raise ConfigError; ``of`` names its unit: ``"seconds"``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
        raise ConfigError(f"{where} must be a number of {of} above 0, got {given(value)}.")
    return float(value)


def require_several(where: str, value: Any, *, of: type = object) -> tuple[Any, ...]:
    """Return the entries of a list or tuple, or raise ConfigError; a single value is told to be put into a tuple.

    ``of``: the type of an entry; what is none of it is not told to be put anywhere.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        name = where.rpartition(" ")[2]
        fits = value is not None and value != "" and isinstance(value, of)
        advice = f" Write {name}=({value!r},)." if fits else ""
        raise ConfigError(f"{where} must be a list or tuple, got {given(value)}.{advice}")
    return tuple(value)


def require_flag(where: str, value: Any) -> bool:
    """Return True or False, or raise ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} must be True or False, got {given(value)}.")
    return value


def require_engine(where: str, value: Any) -> None:
    """Raise InputError where ``value`` has no ``predict`` to call, as engines have."""
    if not callable(getattr(value, "predict", None)):
        raise InputError(
            f"{where} must be an engine that is open, got {given(value)}. Write "
            "wb.OptimizedInferenceEngine.from_variant(variant, backend=...)."
        )


def require_function(where: str, value: Any, *, takes: str) -> None:
    """Raise ConfigError where ``value`` cannot be called; ``takes`` says what it is called with."""
    if not callable(value):
        raise ConfigError(f"{where} must be a function that takes {takes}, got {given(value)}.")
