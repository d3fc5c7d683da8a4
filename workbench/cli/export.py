"""``workbench export``: hand the winner of a study over as a folder that runs without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from workbench.cli.base import DONE, STOPPED, add_command, as_bad_input, drop, say, write


def add_export(commands: Any) -> None:
    """Add the command."""
    words = "Write the winner of a study into a folder, with all that it needs to run without torch."
    command = add_command(commands, "export", words, export)
    command.add_argument("--study", required=True, metavar="URL", help="its database, such as sqlite:///studies.db")
    replaced = (
        "an artefact there is replaced, and an edited run.py, engine.json or README.md with it; other files are refused"
    )
    command.add_argument("--output", required=True, type=Path, help=f"folder to write; {replaced}")
    command.add_argument("--name", help="which study of the database; may be left out where there is one only")
    command.add_argument("--task", help="the task it is of: makes an artefact again that is gone")
    command.add_argument("--trial", metavar="ID", help="trial_key of another row than the winner, or its beginning")
    command.add_argument(
        "--trust", action="store_true", help="allow a recipe of the database that calls a function (Distill.student)"
    )
    command.add_argument("--quality-drop", type=drop, help="largest acceptable drop; default: that of the last run")


def export(arguments: argparse.Namespace) -> int:
    """Do it."""
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
        say("Stopped by Ctrl-C. Nothing was written.")
        return STOPPED
    write(f"folder   {folder}\nprogram  {folder / PROGRAM}\nread     {folder / 'README.md'}")
    return DONE
