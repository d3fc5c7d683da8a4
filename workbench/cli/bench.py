"""``workbench bench``: benchmark an artifact on this machine, without torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.base import DONE, FAILED, STOPPED, add_command, add_shape, positive, say, write
from workbench.core.errors import ConfigError
from workbench.core.files import writable_folder
from workbench.core.format.numbers import plural

if TYPE_CHECKING:
    from workbench.study.results.schema import TrialRow


def add_bench(commands: Any) -> None:
    """Add the command."""
    words = "Benchmark an artifact on this machine and write rows that a study elsewhere can merge."
    command = add_command(commands, "bench", words, bench)
    command.add_argument("artifact", metavar="ARTIFACT", help="folder written by variant.save or workbench export")
    command.add_argument(
        "--backends", nargs="+", help="backends to time, such as onnxruntime openvino; default: all that run here"
    )
    command.add_argument(
        "--batch-sizes", nargs="+", type=positive, metavar="N", help="samples per call; default: 1 8 32"
    )
    command.add_argument("--threads", type=positive, help="CPU threads of every backend")
    add_shape(command)
    command.add_argument("--output", type=Path, help="file for the rows, one JSON object per line")
    command.add_argument(
        "--data", type=Path, help=".npz file with an array per input; default: the samples in the artifact"
    )
    command.add_argument("--task", help="the artifact's task; required by torch backends")
    command.add_argument(
        "--trust", action="store_true", help="allow torch backends to run code that the artifact names"
    )
    command.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")


def bench(arguments: argparse.Namespace) -> int:
    """Print the rows; return 1 if no backend ran the artifact."""
    from workbench.present.files import write_trials
    from workbench.present.terminal import ProgressLog, bench_text
    from workbench.study.bundle.artifact_bench import bench_artifact
    from workbench.study.plan.shapes import parsed_shapes

    if arguments.output is not None:
        _require_file(arguments.output)
    shapes, task = parsed_shapes(arguments.shape), None
    if arguments.task is not None:
        from workbench.tasks.load import load_task

        task = load_task(arguments.task)
    finished: list[TrialRow] = []
    stopped = False
    try:
        rows = bench_artifact(
            arguments.artifact,
            backends=arguments.backends,
            batch_sizes=arguments.batch_sizes,
            threads=arguments.threads,
            shapes=shapes,
            data=arguments.data,
            task=task,
            trust=arguments.trust,
            progress=ProgressLog(sys.stderr),
            on_row=finished.append,
        )
    except KeyboardInterrupt:
        stopped, rows = True, finished
        say(f"Stopped by Ctrl-C. {'Finished rows follow.' if rows else 'No row is finished.'}")
        if not rows:
            return STOPPED
    write(json.dumps(rows, indent=1) if arguments.json else bench_text(rows))
    if arguments.output is not None:  # last, so that a full disk loses no result
        write_trials(rows, arguments.output)
        say(f"{plural(len(rows), 'row')} written to {arguments.output}.")
    if stopped:
        return STOPPED
    return DONE if any(row["state"] == "complete" for row in rows) else FAILED


def _require_file(path: Path) -> None:
    """Refuse an output path that cannot be written, before work starts."""
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder. Give a file, such as {path / 'rows.jsonl'}.")
    above = path.absolute().parent.parent
    if not above.is_dir():  # creating several would hide a mistyped path
        raise ConfigError(f"--output {path}: the folder {above} must exist. Create it, or check the path.")
    writable_folder(path.parent)
