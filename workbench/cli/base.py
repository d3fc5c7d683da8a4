"""Exit codes, output and argument types of all commands."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

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
    words = "sizes of an open dimension besides the batch, such as sequence=16,64; repeated ones combine by position"
    command.add_argument("--shape", action="append", metavar="NAME=SIZES", help=words)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def drop(text: str) -> float:
    """Parse an accuracy drop, a finite number of at least 0."""
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
