"""Exit codes, output, and flags of all commands; flags of a frozen config have its names, types, bounds and help."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from workbench.core.config import Config, check_option, members_of
from workbench.core.errors import ConfigError, StudyError, WorkbenchError

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def add_command(commands: Any, name: str, words: str, work: Any) -> Any:
    """Add a command and return its parser; ``work`` takes the arguments and returns the exit code."""
    command = commands.add_parser(name, help=words, description=words)
    command.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    command.set_defaults(work=work)
    return command


def add_shape(command: Any) -> None:
    """Add the flag for sizes of open dimensions."""
    words = (
        "sizes of a dynamic dimension, such as sequence=16,64; may be repeated, and the lists are paired by position"
    )
    command.add_argument("--shape", action="append", metavar="NAME=SIZES", help=words)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def drop(text: str) -> float:
    """Parse a quality drop, a finite number of at least 0."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0, in the metric's units")


@contextlib.contextmanager
def as_bad_input() -> Iterator[None]:
    """Turn StudyError into ConfigError, for exit code 2, because no work has started."""
    try:
        yield
    except StudyError as error:
        raise ConfigError(str(error)) from error


class CannotWrite(WorkbenchError):
    """Standard output is closed or full."""


def say(words: str) -> None:
    """Write one line to standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"workbench: {words}\n")


def write(words: str) -> None:
    """Write to standard output.

    Raises
    ------
    CannotWrite
        If it is closed or its disk is full.
    """
    with writing():
        sys.stdout.write(f"{words}\n")
        sys.stdout.flush()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn errors of standard output into CannotWrite; BrokenPipeError stays."""
    try:
        yield
    except BrokenPipeError:  # the reader has closed it
        raise
    except (OSError, ValueError, AttributeError) as error:
        why = getattr(error, "strerror", None) or "it is closed"
        drop_output()
        raise CannotWrite(f"Cannot write to standard output: {why}. Results are kept.") from error


def drop_output() -> None:
    """Discard further output, because Python flushes standard output at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def hold_streams() -> None:
    """Open closed standard streams on the null device, so that no file gets their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


DROP_HELP = "limit on the quality drop, in the metric's units; default: that of the last run"
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
                metavar="URL" if field.name == "storage" else {int: "N", float: "X", str: "NAME"}[kind],
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
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    default = " ".join(f"{value:g}" if isinstance(value, float) else f"{value}" for value in values)
    return f"{words} (default {default})"


def _parser(config: type[Config], name: str, kind: type[Any], *, single: bool) -> Callable[[str], Any]:
    """Return an argparse type that parses and checks one option."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
            return check_option(config, name, value) if single else value
        except ConfigError as error:
            reason = str(error).removeprefix(f"{config.__name__}.{name} ").rstrip(".")
        except ValueError:
            reason = f"must be {'a whole number' if kind is int else 'a number'}, got {text!r}"
        raise argparse.ArgumentTypeError(reason)

    return parse
