"""``workbench study``: run or resume a study, or merge rows into it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.cli.base import (
    DONE,
    FAILED,
    STOPPED,
    STORAGE_HELP,
    TASK_HELP,
    add_command,
    add_options,
    add_shape,
    as_bad_input,
    chosen_options,
    say,
    write,
)
from workbench.cli.rows import add_fail_if, passes
from workbench.core.errors import ConfigError
from workbench.study.config import RunConfig

FLAGS = ("backends", "batch_sizes", "threads", "baseline", "references", "budget_s", "stall_timeout_s", "quality_drop")


def add_study(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "study", "Run or resume a study in a database, and print its rows.", study)
    command.add_argument("--task", required=True, help=TASK_HELP)
    command.add_argument("--storage", required=True, metavar="URL", help=STORAGE_HELP)
    command.add_argument(
        "--recipes",
        type=Path,
        metavar="FILE",
        help='JSON list of recipes, such as [{"steps": [{"step": "Prune", "ratio": 0.5}, {"step": "Quantize"}]}]; '
        "default: the default plan chooses them (on a cluster: a fixed list)",
    )
    add_options(command, RunConfig, FLAGS)
    add_shape(command)
    command.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="Dask scheduler whose workers run the trials, such as tcp://head:8786; start them with: dask worker "
        'ADDRESS --nthreads 1 --resources "workbench=1"',
    )
    command.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    add_fail_if(command)
    command.add_argument(
        "--merge",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="add rows that `workbench bench --output FILE` wrote elsewhere, and print all rows; no trial is run",
    )


def study(arguments: argparse.Namespace) -> int:
    """Run the study; return 1 if a condition of --fail-if holds, 130 after Ctrl-C."""
    from workbench.present.terminal import rows_text
    from workbench.study.plan.shapes import parsed_shapes
    from workbench.study.results.gates import QualityGate

    gates = [QualityGate.parse(text) for text in arguments.fail_if]
    config = RunConfig(**chosen_options(arguments, FLAGS), shapes=parsed_shapes(arguments.shape))
    recipes = _read_recipes(arguments.recipes) if arguments.recipes else None
    stopped = False
    with _open_study(arguments) as opened:
        if arguments.merge:
            with as_bad_input():
                for path in arguments.merge:
                    say(f"{path}: {opened.merge(path)}")
        else:
            stopped = _run(opened, recipes, config, arguments)
        rows, best = opened.rows(), opened.best(arguments.quality_drop)
    write(json.dumps(rows, indent=1) if arguments.json else rows_text(rows, best))
    if stopped:
        return STOPPED
    return DONE if passes(best, gates) else FAILED


def _run(opened: Any, recipes: Sequence[Any] | None, config: RunConfig, arguments: argparse.Namespace) -> bool:
    """Run the plan and return whether Ctrl-C stopped it."""
    from workbench.present.terminal import ProgressLog

    try:
        summary = opened.run(recipes, config=config, cluster=arguments.cluster, progress=ProgressLog(sys.stderr))
    except KeyboardInterrupt:
        say(f"Stopped by Ctrl-C. Finished trials are kept in {arguments.storage}; the same command resumes.")
        return True
    for line in (*getattr(summary, "machines", ()), *summary.cut):
        say(line)
    if summary.open:
        say(f"{summary.open} trials are not finished; the same command resumes.")
    return False


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the recipes in {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, list) or not content:
        raise ConfigError(
            f'{path} must be a list of recipes, such as [{{"steps": [{{"step": "Prune", "ratio": 0.5}}]}}].'
        )
    return [Recipe.from_dict(item) for item in content]
