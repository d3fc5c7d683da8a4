"""The command ``workbench``.

Exit codes: 0 done, 1 work failed, 2 bad input, 130 stopped by Ctrl-C. Each error is one line on standard error.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from workbench import __version__
from workbench.cli.base import BAD_INPUT, DONE, FAILED, STOPPED, CannotWrite, drop_output, hold_streams, say, writing
from workbench.cli.bench import add_bench
from workbench.cli.machine import add_doctor, add_noise
from workbench.cli.report import add_report
from workbench.cli.rows import add_export, add_rows
from workbench.cli.study import add_study
from workbench.core.errors import StudyError, TrialFailed, WorkbenchError, did_you_mean
from workbench.core.lazy import missing_package

COMMANDS = ("doctor", "report", "study", "bench", "export", "noise", "rows", "regression")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line without the program's name and return the exit code.

    Examples
    --------
    >>> main(["report", "--task", "digits", "--output", "reports/digits"])  # doctest: +SKIP
    0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    hold_streams()
    try:
        arguments = _parser().parse_args(words)
        return int(arguments.work(arguments))
    except _Usage as error:
        say(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        say("Stopped before any work was done.")
        return STOPPED
    except WorkbenchError as error:
        _explain(error, "--debug" in words)
        return FAILED if isinstance(error, StudyError | TrialFailed | CannotWrite) else BAD_INPUT
    except ModuleNotFoundError as error:  # a runtime install lacks the packages of the lab
        missing = missing_package(error, f"workbench {words[0]}")
        if missing is None:
            raise
        _explain(missing, "--debug" in words)
        return BAD_INPUT
    except BrokenPipeError:  # the reader of the output has closed it, as in `workbench doctor | head`
        drop_output()
        return DONE
    except SystemExit:  # --help and --version have written their output
        try:
            with writing():
                sys.stdout.flush()
        except CannotWrite as error:
            say(str(error))
            return FAILED
        raise


class _Usage(Exception):
    """The command line is not valid."""


class _Parser(argparse.ArgumentParser):
    """Report usage errors in one line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unrecognized arguments here, so that the error names the command's own --help."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "argument command" in message:
            given = message.split("'")[1]
            message = f"Unknown command {given!r}.{did_you_mean(given, COMMANDS)} Commands: {', '.join(COMMANDS)}"
        raise _Usage(f"{message.rstrip('.')}. See: {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(
        prog="workbench", description="Compress a PyTorch model for this machine and measure the variants."
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    for add in (add_doctor, add_report, add_study, add_bench, add_export, add_noise, add_rows):
        add(commands)
    return parser


def _explain(error: WorkbenchError, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    say(" ".join(str(error).split()))
