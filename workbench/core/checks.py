"""Check arguments before work starts: each error holds the requirement, the value and a remedy."""

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


def short_repr(value: object) -> str:
    """Return the repr of a value, cut if it is long."""
    return _SHORT.repr(value)


def given(value: object) -> str:
    """Return a value with its type for an error message: ``'digits' (str)``."""
    return "None" if value is None else f"{_SHORT.repr(value)} ({type(value).__name__})"


def require_path(where: str, value: Any, *, error: type[Exception] = ConfigError) -> Path:
    """Return a path, or raise ``error`` for anything else and for an empty one."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise error(f"{where} must be a folder as text or Path, got {given(value)}. Write 'path/to/folder'.")
    return Path(value)


def require_int(where: str, value: Any, *, minimum: int = 1) -> int:
    """Return an integer of at least ``minimum``, or raise ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{where} must be an integer of at least {minimum}, got {given(value)}.")
    return value


def require_nonnegative(where: str, value: Any, *, unit: str) -> float:
    """Return a finite number of at least 0, or raise ConfigError."""
    if not (is_finite(value) and value >= 0):
        raise ConfigError(f"{where} must be a number of {unit} of at least 0, got {given(value)}.")
    return float(value)


def require_positive(where: str, value: Any, *, unit: str) -> float:
    """Return a finite number above 0, or raise ConfigError."""
    if not (is_finite(value) and value > 0):
        raise ConfigError(f"{where} must be a number of {unit} above 0, got {given(value)}.")
    return float(value)


def is_finite(value: Any) -> bool:
    """Return True for a finite number; bools are not numbers here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def require_sequence(where: str, value: Any, *, of: type = object) -> tuple[Any, ...]:
    """Return the entries of a list or tuple, or raise ConfigError.

    ``of`` is the type of an entry: for a single value of it, the error shows how to write a tuple.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        name = where.rpartition(" ")[2]
        fits = value is not None and value != "" and isinstance(value, of)
        remedy = f" Write {name}=({value!r},)." if fits else ""
        raise ConfigError(f"{where} must be a list or tuple, got {given(value)}.{remedy}")
    return tuple(value)


def require_bool(where: str, value: Any) -> bool:
    """Return True or False, or raise ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} must be True or False, got {given(value)}.")
    return value


def require_engine(where: str, value: Any) -> None:
    """Raise InputError if ``value`` has no ``predict`` method, as engines have."""
    if not callable(getattr(value, "predict", None)):
        raise InputError(
            f"{where} must be an engine that is open, got {given(value)}. Write "
            "wb.OptimizedInferenceEngine.from_variant(variant, backend=...)."
        )


def require_callable(where: str, value: Any, *, takes: str) -> None:
    """Raise ConfigError if ``value`` cannot be called; ``takes`` names its arguments."""
    if not callable(value):
        raise ConfigError(f"{where} must be a function that takes {takes}, got {given(value)}.")
