"""What all commands share: exit codes, how they are added, and where they write."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from workbench.core.errors import ConfigError, StudyError

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def add_command(commands: Any, name: str, words: str, work: Any) -> Any:
    """Return the parser of a new command; ``work`` gets the arguments and returns the exit code."""
    command = commands.add_parser(name, help=words, description=words)
    command.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    command.set_defaults(work=work)
    return command


def add_shape(command: Any) -> None:
    """Add the option for the sizes of open dimensions."""
    words = "sizes of an open dimension beside the batch, such as sequence=16,64; may be repeated, then taken together"
    command.add_argument("--shape", action="append", metavar="NAME=SIZES", help=words)


def positive(text: str) -> int:
    """Return a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """Return a number of seconds above 0, for argparse."""
    return _number(text, lambda found: 0 < found < math.inf, "number of seconds above 0")


def drop(text: str) -> float:
    """Return a drop of quality, a finite number of at least 0, for argparse."""
    return _number(text, lambda found: 0 <= found < math.inf, "number of at least 0, in the metric's units")


def _number(text: str, fits: Callable[[float], bool], words: str) -> float:
    with contextlib.suppress(ValueError):
        if fits(found := float(text)):
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is no {words}")


@contextlib.contextmanager
def as_bad_input() -> Iterator[None]:
    """Make an error of a study one of what was given: it exits with 2, since nothing was begun."""
    try:
        yield
    except StudyError as error:
        raise ConfigError(str(error)) from error


def say(words: str) -> None:
    """Write one line to standard error."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(f"workbench: {words}\n")


def write(words: str) -> None:
    """Write to standard output."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
