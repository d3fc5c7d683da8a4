"""The command ``workbench``: doctor, report, study, bench, export.

Exit codes: 0 done, 1 work failed, 2 bad input, 130 stopped by Ctrl-C. Every error is one line on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from workbench import __version__
from workbench.cli.base import (
    BAD_INPUT,
    DONE,
    FAILED,
    STOPPED,
    CannotWrite,
    add_command,
    add_options,
    add_shape,
    as_bad_input,
    chosen_options,
    drop_output,
    hold_streams,
    say,
    write,
    writing,
)
from workbench.cli.bench import add_bench
from workbench.cli.export import add_export
from workbench.cli.noise import add_noise
from workbench.cli.rows import add_fail_if, add_rows, judge
from workbench.core.errors import ConfigError, StudyError, TrialFailed, WorkbenchError, did_you_mean
from workbench.core.lazy import missing_package
from workbench.study.config import RunConfig

_RUN_OPTIONS = ("backends", "batch_sizes", "threads", "quality_drop", "budget_s", "baseline", "references",
                "stall_timeout_s")  # fmt: skip
COMMANDS = ("doctor", "report", "study", "bench", "export", "noise", "rows", "regression")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, without the program's name, and return the exit code.

    Examples
    --------
    >>> main(["report", "--task", "digits", "--output", "reports/digits"])  # doctest: +SKIP
    0
    """
    given = list(sys.argv[1:] if argv is None else argv)
    hold_streams()
    try:
        arguments = _parser().parse_args(given)
        return int(arguments.work(arguments))
    except _Usage as error:
        say(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        say("Stopped before any work was done.")
        return STOPPED
    except WorkbenchError as error:
        _explain(error, "--debug" in given)
        return FAILED if isinstance(error, StudyError | TrialFailed | CannotWrite) else BAD_INPUT
    except ModuleNotFoundError as error:  # a runtime install has no packages of the lab
        missing = missing_package(error, f"workbench {given[0]}")
        if missing is None:
            raise
        _explain(missing, "--debug" in given)
        return BAD_INPUT
    except BrokenPipeError:  # the reader of our output has gone, as in `workbench doctor | head`
        drop_output()
        return DONE
    except SystemExit:  # --help and --version have written for themselves
        try:
            with writing():
                sys.stdout.flush()
        except CannotWrite as error:
            say(str(error))
            return FAILED
        raise


class _Usage(Exception):
    """The command line itself is wrong."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of a page of usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is left over here, where the command is known whose --help tells more."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and "argument command" in message:
            given = message.split("'")[1]
            message = f"Unknown command {given!r}.{did_you_mean(given, COMMANDS)} Commands: {', '.join(COMMANDS)}"
        raise _Usage(f"{message.rstrip('.')}. See: {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(prog="workbench", description="Find out what a PyTorch model should run as, on this machine.")
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    _add_doctor(commands)
    _add_report(commands)
    _add_study(commands)
    add_bench(commands)
    add_export(commands)
    add_noise(commands)
    add_rows(commands)
    return parser


def _add_doctor(commands: Any) -> None:
    words = "Show the machine, its instruction sets, cores and GPU, and each backend with how to get it."
    command = add_command(commands, "doctor", words, _doctor)
    command.add_argument("--json", action="store_true", help="as JSON")


def _add_report(commands: Any) -> None:
    words = "Measure a task and write report.html, the executed notebook and trials.jsonl into a folder."
    command = add_command(commands, "report", words, _report)
    command.add_argument(
        "--task", required=True, help="digits, digits_vit, minilm, path/to/file.py:function or module:function"
    )
    command.add_argument("--output", required=True, type=Path, help="folder for the results; running again resumes")
    command.add_argument(
        "-p",
        "--parameter",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook, such as -p budget_s 600 or -p batch_sizes 1,32; may be repeated",
    )
    command.add_argument("--baseline", help="the same as -p baseline: torch-eager by default")
    add_fail_if(command)


def _add_study(commands: Any) -> None:
    words = "Run or resume a study in a database, and print its rows."
    command = add_command(commands, "study", words, _study)
    command.add_argument(
        "--task", required=True, help="digits, digits_vit, minilm, path/to/file.py:function or module:function"
    )
    command.add_argument("--storage", required=True, help="database URL, such as sqlite:///studies.db")
    command.add_argument(
        "--recipes",
        type=Path,
        metavar="FILE",
        help='JSON file with a list of recipes as Recipe.to_json() writes them, such as [{"steps": [{"step": "Prune", '
        '"ratio": 0.5}, {"step": "Quantize"}]}]; without it a strategy decides them while it runs (on a cluster: a '
        "fixed list)",
    )
    add_options(command, RunConfig, _RUN_OPTIONS)
    add_shape(command)
    command.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="do the work on the workers of this Dask scheduler, such as tcp://head:8786; start them with: dask worker "
        'ADDRESS --nthreads 1 --resources "workbench=1"',
    )
    command.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    add_fail_if(command)
    command.add_argument(
        "--merge",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="take rows in that `workbench bench --output FILE` wrote elsewhere, and print all; nothing is run",
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from workbench.report.doctor import system_info, system_info_text

    info = system_info()
    write(json.dumps(info, indent=2) if arguments.json else system_info_text(info))
    return DONE


def _report(arguments: argparse.Namespace) -> int:
    from workbench.present.trials import read_trials
    from workbench.report.run import run_report
    from workbench.study.results.gates import QualityGate
    from workbench.study.results.ranking import marked

    gates = [QualityGate.parse(words) for words in arguments.fail_if]
    parameters: dict[str, Any] = {}
    for name, value in arguments.parameters:
        if name in parameters:
            raise ConfigError(f"Parameter {name!r} is given twice.")
        parameters[name] = value
    if arguments.baseline is not None:
        parameters["baseline"] = arguments.baseline
    result = run_report(arguments.task, output=arguments.output, parameters=parameters)
    write(f"report    {result.html}\nnotebook  {result.notebook}\ntrials    {result.trials}")
    if result.ok:
        return DONE if not gates or judge(marked(read_trials(result.trials)), gates) else FAILED
    if result.stopped:
        say(f"{result.reason} Finished trials are kept in {result.html.parent}; the same command goes on from there.")
        return STOPPED
    say(f"The report is incomplete. {result.reason}")
    return FAILED


def _study(arguments: argparse.Namespace) -> int:
    from workbench.engine.names import is_backend, unknown_backend
    from workbench.present.progress_log import ProgressLog
    from workbench.present.text_table import rows_text
    from workbench.study.plan.shapes import parsed_shapes
    from workbench.study.results.gates import QualityGate

    gates = [QualityGate.parse(words) for words in arguments.fail_if]
    config = RunConfig(**chosen_options(arguments, _RUN_OPTIONS), shapes=parsed_shapes(arguments.shape))
    recipes = _read_recipes(arguments.recipes) if arguments.recipes else None
    for name in config.backends or ():
        if not is_backend(name):
            raise ConfigError(unknown_backend(name))
    study = _open_study(arguments)
    if arguments.merge:
        return _merge(study, arguments, gates)
    stopped = False
    with study:
        try:
            summary = study.run(recipes, config=config, cluster=arguments.cluster, progress=ProgressLog(sys.stderr))
            for line in (*getattr(summary, "machines", ()), *summary.cut):  # a cluster's machines; what was left out
                say(line)
            if summary.open:
                say(f"{summary.open} trials are not finished; the same command goes on with them.")
        except KeyboardInterrupt:
            stopped = True
            say(f"Stopped by Ctrl-C. Finished trials are kept in {arguments.storage}; the same command resumes.")
        rows, best = study.rows(), study.best(arguments.quality_drop)
    write(json.dumps(rows, indent=1) if arguments.json else rows_text(rows, best))
    if stopped:
        return STOPPED
    return DONE if judge(best, gates) else FAILED


def _merge(study: Any, arguments: argparse.Namespace, gates: Sequence[Any]) -> int:
    from workbench.present.text_table import rows_text

    with study:
        with as_bad_input():
            for path in arguments.merge:
                say(f"{path}: {study.merge(path)}")
        rows, best = study.rows(), study.best(arguments.quality_drop)
    write(json.dumps(rows, indent=1) if arguments.json else rows_text(rows, best))
    return DONE if judge(best, gates) else FAILED


def _open_study(arguments: argparse.Namespace) -> Any:
    """Load and check the task and open the storage; an error in either is bad input, not failed work."""
    from workbench.study.study import Study
    from workbench.tasks.load import load_task

    task = load_task(arguments.task)
    for remark in task.check():
        say(f"note: {remark}")
    with as_bad_input():
        return Study(task, storage=arguments.storage)


def _read_recipes(path: Path) -> list[Any]:
    from workbench.compress.recipe import Recipe

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the recipes in {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}.") from error
    if not isinstance(found, list) or not found:
        raise ConfigError(
            f"{path} must hold a list of recipes, each like Recipe.to_json() writes it: "
            '[{"steps": [{"step": "Prune", "ratio": 0.5}]}].'
        )
    return [Recipe.from_dict(item) for item in found]


def _explain(error: WorkbenchError, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    say(" ".join(str(error).split()))
