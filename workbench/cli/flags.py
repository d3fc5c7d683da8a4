"""Command-line flags from the options of a frozen config: names, types, bounds and help come from the config."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any

from workbench.core.config import Config, check_option, members_of
from workbench.core.errors import ConfigError

DROP_HELP = "limit of the accuracy drop, in the metric's units; default: that of the last run"
TASK_HELP = "digits, digits_vit, minilm, path/to/file.py:function or module:function"
STORAGE_HELP = "database URL, such as sqlite:///studies.db"


def add_options(command: Any, config: type[Config], names: Sequence[str]) -> None:
    """Add a flag for each of these options of a config, with its type, bounds, default and help."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if field.name in names:
            members = members_of(hints[field.name])
            several = next((hint for hint in members if typing.get_origin(hint) is tuple), None)
            kinds = typing.get_args(several) if several else members
            kind = next(kind for kind in (int, float, str) if kind in kinds)
            command.add_argument(
                f"--{field.name.replace('_', '-')}",
                nargs="+" if several else None,
                type=_parser(config, field.name, kind, single=several is None),
                metavar={int: "N", float: "X", str: "NAME"}[kind],
                help=_help(field),
            )


def chosen_options(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the options whose flags were given."""
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _help(field: dataclasses.Field[Any]) -> str:
    words = str(field.metadata["option"]["help"]).replace("%", "%%")
    if field.default in (None, (), ""):
        return words
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else f"{field.default}"
    return f"{words} (default {default})"


def _parser(config: type[Config], name: str, kind: type[Any], *, single: bool) -> Callable[[str], Any]:
    """Return an argparse type that parses and checks one option."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
            return check_option(config, name, value) if single else value
        except ConfigError as error:
            raise argparse.ArgumentTypeError(
                str(error).removeprefix(f"{config.__name__}.{name} ").rstrip(".")
            ) from None
        except ValueError:
            article = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {article}, got {text!r}") from None

    return parse
