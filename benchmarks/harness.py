"""What a study costs beside the work that it does, and how fast a finished one is answered.

    python -m benchmarks.harness [--output FILE]

A grid of 48 trials of the embedded task ``digits`` (8 recipes, 3 backends, 2 batch sizes) is run in a fresh process
with fresh storage and an empty cache. The cost of the harness is that process's whole time, from its start to its end,
minus the seconds in which one of its children was training (applying a recipe), exporting, loading, warming up, being
timed, measuring memory and energy, or evaluating. What two children do at once counts once; imports and process starts
are the harness's. Trainings are short on purpose: the longer they are, the smaller the share. At most 25 % may be the
harness's (the aim is 10 %).

Then the same call is made again in another process, and by ``workbench study``: all rows are reused.

A report's plan is run in the same way: the default plan of ``digits`` within the 185 s that a report leaves it. At most
8 % of that may be the harness's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import workbench as wb
from workbench.core.machine import FINGERPRINT_LIBRARIES, describe_machine, library_versions

LIMIT, AIM, PLAN_LIMIT = 0.25, 0.10, 0.08
PLAN_S = 185.0
BACKENDS, BATCHES = ("torch-eager", "onnxruntime", "openvino"), (1, 32)
OUTPUT = Path(__file__).parent / "results" / "harness.md"


def recipes() -> list[wb.Recipe]:
    """Return the eight recipes of the grid; two of them train, for one epoch each."""
    half, recover = wb.Prune(ratio=0.5), wb.Recover(epochs=1)
    return [
        wb.Recipe(name="float"),
        wb.Recipe(wb.Quantize(), name="quantize"),
        wb.Recipe(wb.Prune(ratio=0.3), name="prune-0.3"),
        wb.Recipe(half, name="prune"),
        wb.Recipe(half, recover, name="prune-recover"),
        wb.Recipe(half, recover, wb.Quantize(), name="chain"),
        wb.Recipe(wb.Factorize(), name="factorize"),
        wb.Recipe(wb.Factorize(), recover, name="factorize-recover"),
    ]


def run(storage: str, answer: Path, *, plan: bool) -> None:
    """Run the grid or the default plan, and write the summary; done in a process of its own."""
    with wb.Study("digits", storage=storage) as study:
        if plan:
            found = study.run(budget_s=PLAN_S, references=["torch-default"])
        else:
            found = study.run(recipes(), backends=BACKENDS, batch_sizes=BATCHES)
        best = study.best()
    known = {
        "finished": found.finished,
        "reused": found.reused,
        "failed": found.failed,
        "phases_s": dict(found.phases_s),
        "covered_s": found.covered_s,
        "run_s": found.seconds,
        "best": best.reason,
    }
    answer.write_text(json.dumps(known))


def timed(command: Sequence[str | Path], folder: Path) -> tuple[float, str]:
    """Return the seconds that a command takes from start to end, and what it printed."""
    environment = {**os.environ, "WORKBENCH_CACHE": str(folder / "cache")}
    begun = time.monotonic()
    done = subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode != 0:
        raise SystemExit(f"{command[:4]} ended with {done.returncode}")
    return seconds, done.stdout


def measured(folder: Path) -> dict[str, Any]:
    """Return what the first run, the resumed one and the shell's one took and told."""
    storage, answer = f"sqlite:///{folder}/harness.db", folder / "answer.json"
    again = [sys.executable, "-m", "benchmarks.harness", "--run", storage, answer]
    found: dict[str, Any] = {}
    for name in ("first", "resumed"):
        wall, _ = timed(again, folder)
        found[name] = {"wall_s": wall, **json.loads(answer.read_text())}
        print(f"{name}: {found[name]}", flush=True)
    planned = [*again[:3], "--run", f"sqlite:///{folder}/plan.db", answer, "--plan"]
    wall, _ = timed(planned, folder)
    found["plan"] = {"wall_s": wall, **json.loads(answer.read_text())}
    print(f"plan: {found['plan']}", flush=True)
    listed = folder / "recipes.json"
    listed.write_text(json.dumps([recipe.to_dict() for recipe in recipes()]))
    shell = [sys.executable, "-m", "workbench", "study", "--task", "digits", "--storage", storage]
    shell += ["--recipes", str(listed), "--backends", *BACKENDS, "--batch-sizes", *map(str, BATCHES)]
    found["shell"] = {"wall_s": timed(shell, folder)[0]}
    return found


def page(found: dict[str, Any]) -> tuple[str, bool]:
    """Return the page of results, and whether all of it is as it must be."""
    first, trials = found["first"], len(recipes()) * len(BACKENDS) * len(BATCHES)
    wall = first["wall_s"]
    harness = wall - first["covered_s"]
    share = harness / wall
    plan = found["plan"]
    plan_share = 1 - plan["covered_s"] / plan["wall_s"]
    whole = first["finished"] == found["resumed"]["reused"] == trials and not found["resumed"]["finished"]
    versions = ", ".join(f"{name} {version}" for name, version in library_versions(FINGERPRINT_LIBRARIES).items())
    lines = [
        "# The harness's own cost",
        "",
        f"`python -m benchmarks.harness` on {describe_machine()}; {versions}.",
        "",
        f"{first['finished']} of {trials} trials of `digits` finished in {wall:.1f} s, from the start of the process",
        "to its end. Seconds on the wall clock; phases that overlap are counted in each, and once in their sum.",
        "",
        "| phase of the children | s | share |",
        "|---|---|---|",
        *(f"| {name} | {seconds:.1f} | {seconds / wall:.1%} |" for name, seconds in first["phases_s"].items()),
        f"| any of them | {first['covered_s']:.1f} | {first['covered_s'] / wall:.1%} |",
        f"| **harness** (the rest) | **{harness:.1f}** | **{share:.1%}** |",
        "",
        f"Limit {LIMIT:.0%}: {'held' if share <= LIMIT else 'MISSED'}. Aim {AIM:.0%}: "
        f"{'held' if share <= AIM else 'missed'}.",
        "",
        f"The same call again, in a new process: {found['resumed']['wall_s']:.2f} s "
        f"({found['resumed']['run_s']:.2f} s of it in `Study.run`), {found['resumed']['reused']} rows reused. By "
        f"`workbench study`: {found['shell']['wall_s']:.2f} s.",
        "",
        f"The default plan of `digits` within {PLAN_S:.0f} s: {plan['finished']} trials in {plan['wall_s']:.1f} s, "
        f"{plan['covered_s']:.1f} s of them in the phases above. The harness took {plan_share:.1%} (limit "
        f"{PLAN_LIMIT:.0%}: {'held' if plan_share <= PLAN_LIMIT else 'MISSED'}).",
        "",
    ]
    return "\n".join(lines), share <= LIMIT and plan_share <= PLAN_LIMIT and whole


def main() -> int:
    """Measure, print and write the page; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--run", nargs=2, metavar=("STORAGE", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--plan", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run[0], Path(options.run[1]), plan=options.plan)
        return 0
    with tempfile.TemporaryDirectory(prefix="workbench-harness-") as folder:
        text, right = page(measured(Path(folder)))
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
