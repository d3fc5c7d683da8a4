"""``workbench report``: run the report notebook headless and write an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from workbench.cli.base import DONE, FAILED, STOPPED, TASK_HELP, add_command, add_options, chosen_options, say, write
from workbench.cli.rows import add_fail_if, passes
from workbench.core.errors import ConfigError
from workbench.report.settings import ReportSettings

_OWN = ("task", "output_dir", "started_at", "interactive")
FLAGS = tuple(name for name in ReportSettings.__dataclass_fields__ if name not in _OWN)


def add_report(commands: Any) -> None:
    """Add the command."""
    text = "Measure a task and write report.html, the executed notebook and trials.jsonl into a folder."
    command = add_command(commands, "report", text, report)
    command.add_argument("--task", required=True, help=TASK_HELP)
    command.add_argument(
        "--output", required=True, type=Path, help="folder for the results; repeat the command to resume"
    )
    add_options(command, ReportSettings, FLAGS)
    command.add_argument(
        "-p",
        "--parameter",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="parameter of the notebook, such as -p budget_s 600 or -p batch_sizes 1,32; may be repeated",
    )
    add_fail_if(command)


def report(arguments: argparse.Namespace) -> int:
    """Write the report; return 1 if it is incomplete or a condition of --fail-if holds."""
    from workbench.present.files import read_trials
    from workbench.report.run import run_report
    from workbench.study.results.gates import QualityGate
    from workbench.study.results.ranking import marked

    gates = [QualityGate.parse(text) for text in arguments.fail_if]
    result = run_report(arguments.task, output=arguments.output, parameters=_parameters(arguments))
    write(f"report    {result.html}\nnotebook  {result.notebook}\ntrials    {result.trials}")
    if result.ok:
        return DONE if not gates or passes(marked(read_trials(result.trials)), gates) else FAILED
    if result.stopped:
        say(f"{result.reason} Finished trials are kept in {result.html.parent}; the same command resumes.")
        return STOPPED
    say(f"The report is incomplete. {result.reason}")
    return FAILED


def _parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name, value in (*arguments.parameters, *chosen_options(arguments, FLAGS).items()):
        if name in parameters:
            raise ConfigError(f"Each parameter may be given once, {name!r} is given twice.")
        parameters[name] = value
    return parameters
