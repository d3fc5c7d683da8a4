"""Frozen option dataclasses: checked on creation, to and from JSON, with stable ids."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

from workbench.core.errors import ConfigError, unknown_name

C = TypeVar("C")
_LIMITS = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] | None = None,
    unit: str | None = None,
    advanced: bool = False,
) -> Any:
    """Declare one option of a frozen config: its default, help text and valid values.

    ``minimum``/``maximum`` include the bound, ``above``/``below`` exclude it. Forms are built from the same metadata.
    """
    meta = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
        "choices": choices,
        "unit": unit,
        "advanced": advanced,
    }
    return dataclasses.field(default=default, metadata={"option": meta})


def option_of(config: type[Config], name: str, **changes: Any) -> Any:
    """Declare the option of another config, with changes such as ``default`` or ``help``."""
    field = next(field for field in dataclasses.fields(config) if field.name == name)  # type: ignore[arg-type]
    return option(**{"default": field.default, **field.metadata["option"], **changes})


class Config:
    """Base of the frozen option dataclasses; every ``option`` is validated on creation."""

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Raise ConfigError for an unknown option, with the nearest name; copies are made without options."""
        if options:
            _require_options(cls, options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, _validated(type(self), field, getattr(self, field.name), hints))

    def replace(self: C, **changes: Any) -> C:
        """Return a copy with some options changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}

    def to_dict(self) -> dict[str, Any]:
        """Return all options, defaults included, as JSON-ready values."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


def check_option(cls: type[Any], name: str, value: Any) -> Any:
    """Return the validated value of one option of ``cls``, independent of the others, or raise ConfigError."""
    _require_options(cls, [name])
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return _validated(cls, field, value, typing.get_type_hints(cls))


def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build a config from a mapping; an unknown option is an error that suggests the nearest name."""
    _require_options(cls, values)
    hints = typing.get_type_hints(cls)
    ready = {}
    for key, value in values.items():
        nested = next((t for t in members_of(hints[key]) if isinstance(t, type) and issubclass(t, Config)), None)
        ready[key] = from_dict(nested, value) if nested and isinstance(value, Mapping) else value
    return cls(**ready)


def _require_options(cls: type[Any], options: Iterable[str]) -> None:
    names = [field.name for field in dataclasses.fields(cls)]
    for name in options:
        if name not in names:
            raise ConfigError(unknown_name(f"option of {cls.__name__}", name, names))


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def without_nan(value: Any) -> Any:
    """Return JSON-ready values with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short_id(value: Any) -> str:
    """Return the first 12 hex digits of the sha256 over the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def members_of(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, and any other type alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _coerce(value: Any, hint: Any) -> Any:
    members = members_of(hint)
    if isinstance(value, list) and any(typing.get_origin(m) is tuple or m is tuple for m in members):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and float in members and int not in members:
        return float(value)
    return value


def _matches(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_matches(v, inner) for v in value)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(hint, type) and isinstance(value, hint)


def _type_name(hint: Any) -> str:
    if len(members_of(hint)) > 1:
        return " or ".join(map(_type_name, members_of(hint)))
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"tuple of {_type_name(typing.get_args(hint)[0])}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _validated(cls: type[Any], field: dataclasses.Field[Any], value: Any, hints: Mapping[str, Any]) -> Any:
    """Return the value in the type of its field, or raise ConfigError."""
    name, hint, where = field.name, hints[field.name], f"{cls.__name__}.{field.name}"
    value = _coerce(value, hint)
    if not any(_matches(value, m) for m in members_of(hint)):
        several = isinstance(value, str) and any(typing.get_origin(m) is tuple for m in members_of(hint))
        remedy = f" Write {name}=({value!r},)." if several else ""
        raise ConfigError(f"{where} must be {_type_name(hint)}, got {value!r} ({type(value).__name__}).{remedy}")
    if value is not None and "option" in field.metadata:
        _check_bounds(where, value, field.metadata["option"])
    return value


def _check_bounds(where: str, value: Any, meta: Mapping[str, Any]) -> None:
    if meta["choices"] is not None and value not in meta["choices"]:
        raise ConfigError(f"{where}: " + unknown_name("value", value, map(str, meta["choices"])))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    limits = [(*limit, meta[name]) for name, limit in _LIMITS.items() if meta[name] is not None]
    finite = math.isfinite(value)
    if not finite or not all(fits(value, bound) for _, fits, bound in limits):
        bounds = [*([] if finite else ["finite"]), *(f"{words} {bound:g}" for words, _, bound in limits)]
        raise ConfigError(f"{where} must be {' and '.join(bounds)}, got {value!r}.")
