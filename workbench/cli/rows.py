"""``workbench rows`` and ``workbench regression``: what a study measured, for other tools and for one's own CI."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.cli.base import DONE, FAILED, add_command, as_bad_input, say, write
from workbench.core.checks import given
from workbench.core.errors import ConfigError

_WHERE = "database URL such as sqlite:///studies.db, or a trials.jsonl"


def add_rows(commands: Any) -> None:
    """Add the two commands."""
    words = "Write the rows of a study into a file: .parquet, .csv, .jsonl or .html."
    command = add_command(commands, "rows", words, rows)
    command.add_argument("--storage", required=True, metavar="URL", help="its database, such as sqlite:///studies.db")
    command.add_argument("--name", help="which study; may be left out where there is one only")
    command.add_argument("--output", required=True, type=Path, help="the file; its ending says the format")
    words = "Compare two states of a study, and exit with 1 where something became worse or is gone."
    command = add_command(commands, "regression", words, regression)
    command.add_argument("before", metavar="BEFORE", help=_WHERE)
    command.add_argument("after", metavar="AFTER", help=_WHERE)
    command.add_argument("--name", help="which study of a database; may be left out where there is one only")
    command.add_argument(
        "--allow-missing", action="store_true", help="trials that AFTER has not finished are no failure"
    )
    command.add_argument("--json", action="store_true", help="print the changes as JSON")


def add_fail_if(command: Any) -> None:
    """Add the option for conditions on the recommended row."""
    words = (
        "exit with 1 where the recommended row has this, such as 'speedup<3' or 'quality_drop>0.005', or where nothing "
        "met the goal; may be repeated"
    )
    command.add_argument("--fail-if", action="append", default=[], metavar="CONDITION", help=words)


def judge(best: Any, gates: Sequence[Any]) -> bool:
    """Say what fails, and return whether nothing does."""
    from workbench.study.results.gates import failures

    found = failures(best, gates)
    for words in found:
        say(f"FAILED: {words}")
    return not found


def rows(arguments: argparse.Namespace) -> int:
    """Write the rows."""
    from workbench.present.files import check_format, write_rows
    from workbench.study.offline import stored_rows

    check_format(arguments.output)
    with as_bad_input():
        found, _ = stored_rows(arguments.storage, study=arguments.name)
    write(f"{write_rows(found, arguments.output)}: {len(found)} rows")
    return DONE


def regression(arguments: argparse.Namespace) -> int:
    """Compare two states."""
    from workbench.study.results.regression import compare_rows

    with as_bad_input():
        found = compare_rows(*(_read(where, arguments.name) for where in (arguments.before, arguments.after)))
    write(json.dumps(dataclasses.asdict(found), indent=1) if arguments.json else str(found))
    return DONE if found.holds or (arguments.allow_missing and not found.worse) else FAILED


def _read(where: str, name: str | None) -> Sequence[Any]:
    if "://" in where:
        from workbench.study.offline import stored_rows

        return stored_rows(where, study=name)[0]
    from workbench.present.trials import read_trials

    try:
        found = read_trials(where)
    except OSError as error:
        raise ConfigError(f"Cannot read {where}: {error.strerror}. Give {_WHERE}.") from error
    except ValueError as error:
        raise ConfigError(f"{where} is no file of rows, one line of JSON each: {error}.") from error
    strange = next((row for row in found if not isinstance(row, dict) or "trial_key" not in row), None)
    if strange is not None:
        raise ConfigError(f"{where} holds a line that is no row of a study: {given(strange)}. Give {_WHERE}.")
    return found
