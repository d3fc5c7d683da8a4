"""``python -m workbench.measure.profiling.replay``: load an artifact and make a few calls under a profiler."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from workbench.artifact.artifact import open_artifact
from workbench.core.errors import WorkbenchError
from workbench.engine.engine import OptimizedInferenceEngine
from workbench.export.io import rebuild_inputs
from workbench.measure.profiling.nvtx import annotate_calls

_WARM_CALLS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 after the calls, 2 if the artifact cannot run."""
    arguments = _parser().parse_args(argv)
    try:
        missing = _replay(arguments)
    except WorkbenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if missing is not None:
        sys.stderr.write(f"{arguments.calls} calls without ranges: {missing}.\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.profiling.replay", description=__doc__)
    parser.add_argument("artifact", help="artifact folder")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", help="cuda or cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--task", help="task of the artifact, required by torch's backends")
    parser.add_argument(
        "--trust", action="store_true", help="allow torch's backends to run code that the artifact names"
    )
    return parser


def _replay(arguments: argparse.Namespace) -> str | None:
    """Return why no ranges were recorded, or None."""
    build = None
    if arguments.task is not None:
        from workbench.tasks.load import load_task

        build = load_task(arguments.task).build
    opened = open_artifact(arguments.artifact)
    options = {"backend": arguments.backend, "batch_size": arguments.batch_size, "threads": arguments.threads}
    options |= {"device": arguments.device, "precision": arguments.precision}
    with OptimizedInferenceEngine.from_artifact(opened, build=build, trust=arguments.trust, **options) as engine:
        arrays = opened.reference.tiled_inputs(engine.io.batch or arguments.batch_size)
        inputs = rebuild_inputs(opened.io.kind, opened.io.input_names, arrays)
        for _ in range(_WARM_CALLS):
            engine.predict(inputs)
        name = f"{engine.backend}, batch {arguments.batch_size}"
        return annotate_calls(lambda: engine.predict(inputs), name, calls=arguments.calls)


if __name__ == "__main__":
    sys.exit(main())
