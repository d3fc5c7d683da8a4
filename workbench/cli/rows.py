"""Commands of stored rows: ``workbench rows``, ``workbench regression`` and ``workbench export``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.cli.base import (
    DONE,
    DROP_HELP,
    FAILED,
    STOPPED,
    STORAGE_HELP,
    add_command,
    as_bad_input,
    drop,
    say,
    write,
)
from workbench.core.checks import given
from workbench.core.errors import ConfigError

_WHERE = "database URL such as sqlite:///studies.db, or a trials.jsonl"


def add_rows(commands: Any) -> None:
    """Add the two commands."""
    words = "Write the rows of a study into a file: .parquet, .csv, .jsonl or .html."
    command = add_command(commands, "rows", words, rows)
    command.add_argument("--storage", required=True, metavar="URL", help=STORAGE_HELP)
    command.add_argument("--name", help="name of the study, if the database has several")
    command.add_argument("--output", required=True, type=Path, help="output file; its suffix sets the format")
    words = "Compare two states of a study; exit with 1 if a trial became worse or is missing."
    command = add_command(commands, "regression", words, regression)
    command.add_argument("before", metavar="BEFORE", help=_WHERE)
    command.add_argument("after", metavar="AFTER", help=_WHERE)
    command.add_argument("--name", help="name of the study, if a database has several")
    command.add_argument("--allow-missing", action="store_true", help="ignore trials that are not finished in AFTER")
    command.add_argument("--json", action="store_true", help="print the changes as JSON")


def add_fail_if(command: Any) -> None:
    """Add the flag for conditions on the recommended row."""
    words = (
        "exit with 1 if this condition holds for the recommended row, such as 'speedup<3' or 'quality_drop>0.005', or "
        "if no variant meets the goal; may be repeated"
    )
    command.add_argument("--fail-if", action="append", default=[], metavar="CONDITION", help=words)


def passes(best: Any, gates: Sequence[Any]) -> bool:
    """Print failed conditions and return True if there are none."""
    from workbench.study.results.gates import failures

    failed = failures(best, gates)
    for text in failed:
        say(f"FAILED: {text}")
    return not failed


def rows(arguments: argparse.Namespace) -> int:
    """Write the rows of a study."""
    from workbench.present.files import check_format, write_rows
    from workbench.study.offline import stored_rows

    check_format(arguments.output)
    with as_bad_input():
        stored, _ = stored_rows(arguments.storage, study=arguments.name)
    write(f"{write_rows(stored, arguments.output)}: {len(stored)} rows")
    return DONE


def regression(arguments: argparse.Namespace) -> int:
    """Print changes between two states; return 1 for a regression."""
    from workbench.study.results.regression import compare_rows

    with as_bad_input():
        changes = compare_rows(*(_read(where, arguments.name) for where in (arguments.before, arguments.after)))
    write(json.dumps(dataclasses.asdict(changes), indent=1) if arguments.json else str(changes))
    return DONE if changes.holds or (arguments.allow_missing and not changes.worse) else FAILED


def _read(where: str, name: str | None) -> Sequence[Any]:
    if "://" in where:
        from workbench.study.offline import stored_rows

        return stored_rows(where, study=name)[0]
    from workbench.present.files import read_trials

    try:
        trials = read_trials(where)
    except OSError as error:
        raise ConfigError(f"Cannot read {where}: {error.strerror}. Give {_WHERE}.") from error
    except ValueError as error:
        raise ConfigError(f"{where} must have one JSON row per line: {error}.") from error
    invalid = next((row for row in trials if not isinstance(row, dict) or "trial_key" not in row), None)
    if invalid is not None:
        raise ConfigError(f"{where} must hold rows of a study, got {given(invalid)}. Give {_WHERE}.")
    return trials


def add_export(commands: Any) -> None:
    """Add the command."""
    words = "Write the recommended variant into a folder that runs without torch."
    command = add_command(commands, "export", words, export)
    command.add_argument("--study", required=True, metavar="URL", help=STORAGE_HELP)
    replaced = "an earlier export in it is replaced, including edits of its files; a folder with other files is refused"
    command.add_argument("--output", required=True, type=Path, help=f"folder to write; {replaced}")
    command.add_argument("--name", help="name of the study, if the database has several")
    command.add_argument("--task", help="the study's task; needed only to rebuild a missing artifact")
    command.add_argument("--trial", metavar="ID", help="trial_key (or its first characters) of a row to export instead")
    command.add_argument(
        "--trust",
        action="store_true",
        help="allow recipes in the database that call functions, such as Distill.student",
    )
    command.add_argument("--quality-drop", type=drop, help=DROP_HELP)


def export(arguments: argparse.Namespace) -> int:
    """Write the folder."""
    from workbench.study.bundle.bundle import PROGRAM
    from workbench.study.offline import export_stored

    try:
        with as_bad_input():
            folder = export_stored(
                arguments.study,
                arguments.output,
                study=arguments.name,
                task=arguments.task,
                trial=arguments.trial,
                quality_drop=arguments.quality_drop,
                trust=arguments.trust,
            )
    except KeyboardInterrupt:
        say("Stopped by Ctrl-C. No file was written.")
        return STOPPED
    write(f"folder   {folder}\nprogram  {folder / PROGRAM}\nread     {folder / 'README.md'}")
    return DONE
