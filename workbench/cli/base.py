"""What all commands share: exit codes, how they are added, and where they write."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from workbench.core.errors import ConfigError, StudyError, WorkbenchError

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


class CannotWrite(WorkbenchError):
    """Standard output is closed, or takes no more."""


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
    """Turn what goes wrong with standard output into CannotWrite, in one line; BrokenPipeError stays."""
    try:
        yield
    except BrokenPipeError:  # a reader that has seen enough
        raise
    except (OSError, ValueError, AttributeError) as error:
        why = getattr(error, "strerror", None) or "it is closed"
        drop_output()
        raise CannotWrite(f"Cannot write to standard output: {why}. What was done is kept.") from error


def drop_output() -> None:
    """Send what is still written to standard output nowhere: Python flushes it once more when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def hold_streams() -> None:
    """Open what the caller has closed of the standard streams, so that no file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
