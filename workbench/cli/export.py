"""``workbench export``: write the recommended variant as a folder that runs without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from workbench.cli.base import DONE, STOPPED, add_command, as_bad_input, drop, say, write
from workbench.cli.flags import DROP_HELP, STORAGE_HELP


def add_export(commands: Any) -> None:
    """Add the command."""
    words = "Write the recommended variant into a folder that runs without torch."
    command = add_command(commands, "export", words, export)
    command.add_argument("--study", required=True, metavar="URL", help=STORAGE_HELP)
    replaced = "replaces an earlier export, with any edits of run.py, engine.json and README.md; refuses other files"
    command.add_argument("--output", required=True, type=Path, help=f"folder to write; {replaced}")
    command.add_argument("--name", help="name of the study, if the database has several")
    command.add_argument("--task", help="the study's task; needed only to rebuild a missing artifact")
    command.add_argument("--trial", metavar="ID", help="trial_key, or its first characters, of another row")
    command.add_argument(
        "--trust", action="store_true", help="allow recipes of the database that call functions (Distill.student)"
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
