"""The default plan against int8 alone and against the old fixed list: same budget, same machine, winners interleaved.

    python -m benchmarks.plan --data ../shared/data [--tasks digits digits_vit cifar] [--output FILE]

Each contestant is a study with storage and a cache of its own, so that none takes up what another has trained. ``list``
is ``workbench.study.default_recipes``, the default of earlier versions. Then the recommended variants are timed in
turns on their engines in one process, at the batch size of the recommendation. A finished study is reused: an
interrupted benchmark goes on with the contestant that it was at, and ``--fresh`` begins anew.

Prints a page in Markdown and writes it. It exits with 1 if a line of it says that a claim does not hold: at least 1.3x
speedup over int8 alone on ResNet-20 within one point, and on no task slower than int8 alone or the fixed list.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import workbench as wb
from workbench.core.machine import FINGERPRINT_LIBRARIES, describe_machine, library_versions
from workbench.core.progress import Progress
from workbench.study.plan.recipes import default_recipes

TASKS = ("digits", "digits_vit", "cifar")
CONTESTANTS = ("int8 alone", "fixed list", "default plan")
BUDGETS_S = {"digits": 200.0, "digits_vit": 200.0, "cifar": 1200.0}
LIMIT, GOAL = 0.01, 1.3
STORE = Path(__file__).parent / "results" / "plan"
OUTPUT = Path(__file__).parent / "results" / "plan.md"
_COMPARE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Winner:
    """The recommended variant of a contestant."""

    contestant: str
    recipe: str
    backend: str
    batch_size: int
    threads: int
    artifact: str
    speedup: float
    drop: float
    met: bool
    seconds: float
    trials: int


@dataclasses.dataclass(frozen=True)
class Duel:
    """The default plan's winner timed in turns with another one's."""

    task: str
    against: str
    ratio: float
    low: float
    high: float
    verdict: str


def notify(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def task_of(name: str) -> wb.Task:
    """Return a task of the benchmark."""
    here = Path(__file__).parent
    return wb.load_task(f"{here / 'cifar.py'}:cifar10" if name == "cifar" else name)


def recipes_of(contestant: str, budget_s: float) -> list[wb.Recipe] | None:
    """Return what a contestant tries, None for the default plan."""
    if contestant == "int8 alone":
        return [wb.Recipe(name="float"), wb.Recipe(wb.Quantize(), name="quantize")]
    return default_recipes(budget_s) if contestant == "fixed list" else None


def run(name: str, contestant: str, budget_s: float, folder: Path) -> Winner:
    """Run a contestant's study, or read what it left, and return its winner."""
    place = folder / contestant.replace(" ", "-")
    answer = place / "winner.json"
    if answer.exists():
        return Winner(**json.loads(answer.read_text()))
    place.mkdir(parents=True, exist_ok=True)
    os.environ["WORKBENCH_CACHE"] = str(place / "cache")  # read by the children of the study
    last = ""

    def progress(event: Progress) -> None:
        nonlocal last
        if event.message != last and (event.message.startswith("plan") or " ms," in event.message):
            last = event.message
            notify(f"{name}, {contestant}: {last}")

    with wb.Study(task_of(name), storage=f"sqlite:///{place / 'study.db'}") as study:
        summary = study.run(recipes_of(contestant, budget_s), budget_s=budget_s, quality_drop=LIMIT, progress=progress)
        best = study.best()
        if best.row is None:
            raise SystemExit(f"{name}, {contestant}: {best.reason}")
        row, finished = best.row, sum(one["state"] == "complete" for one in study.rows())
        artifact = study.files / "artifacts" / row["artifact_key"]
    winner = Winner(
        contestant, row["recipe"], row["backend"], row["batch_size"], row["threads"], str(artifact),
        row["speedup"] or 1.0, row["quality_drop"] or 0.0, best.met, summary.seconds, finished,
    )  # fmt: skip
    answer.write_text(json.dumps(dataclasses.asdict(winner), indent=1))
    notify(f"{name}, {contestant}: {best.reason}")
    return winner


def duel(name: str, ours: Winner, theirs: Winner) -> Duel:
    """Time two winners in turns; the same variant on the same engine is not timed against itself."""
    if (ours.recipe, ours.backend) == (theirs.recipe, theirs.backend) and ours.recipe in ("float", "quantize"):
        return Duel(name, theirs.contestant, 1.0, 1.0, 1.0, "same")
    task = task_of(name)
    engines = [
        wb.OptimizedInferenceEngine.from_artifact(
            winner.artifact, build=task.build, trust=True, backend=winner.backend, batch_size=winner.batch_size,
            threads=winner.threads,
        )
        for winner in (theirs, ours)
    ]  # fmt: skip
    try:
        found = wb.compare(*engines, task.examples(ours.batch_size).numpy(), budget_s=_COMPARE_S)
    finally:
        for engine in engines:
            engine.dispose()
    return Duel(name, theirs.contestant, found.ratio, found.low, found.high, found.verdict)


def holds(winners: dict[str, dict[str, Winner]], duels: list[Duel]) -> list[tuple[str, bool]]:
    """Return every claim with whether it holds."""
    claims = []
    for one in duels:
        words = f"{one.task}: not slower than {one.against} ({one.ratio:.2f}x, 95 % CI {one.low:.2f}-{one.high:.2f})"
        claims.append((words, one.verdict != "slower"))
        if one.task == "cifar" and one.against == "int8 alone":
            ours = winners["cifar"]["default plan"]
            words = f"cifar: at least {GOAL}x speedup over int8 alone within {LIMIT:g}"
            words += f" ({one.ratio:.2f}x, drop {ours.drop:.4f})"
            claims.append((words, one.ratio >= GOAL and ours.met))
    return claims


def page(winners: dict[str, dict[str, Winner]], duels: list[Duel], budgets: dict[str, float]) -> str:
    """Return the page in Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in library_versions(FINGERPRINT_LIBRARIES).items() if v)
    lines = [
        "# The default plan against int8 alone and the old fixed list", "",
        "Made by `python -m benchmarks.plan`. Each contestant had the same budget, storage and cache of its own; the",
        "recommended variants were then timed in turns on their engines. Speedups are over torch eager as each study",
        "measured it; drops are on the evaluation split.", "", f"{describe_machine()}; {versions}", "",
        "| task | budget (s) | contestant | recommended | engine | speedup | drop | seconds | trials |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for task, each in winners.items():
        for one in each.values():
            lost = f"{one.drop:+.4f}" + ("" if one.met else " (beyond the limit)")
            cells = (
                *(task, f"{budgets[task]:.0f}", one.contestant, one.recipe, one.backend, f"{one.speedup:.2f}x"),
                *(lost, f"{one.seconds:.0f}", str(one.trials)),
            )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| task | default plan over | speedup | 95 % CI | verdict |", "|---|---|---|---|---|"]
    for pair in duels:
        interval = f"{pair.low:.2f}-{pair.high:.2f}"
        lines.append(f"| {pair.task} | {pair.against} | {pair.ratio:.2f}x | {interval} | {pair.verdict} |")
    lines += ["", "What is claimed:", ""]
    lines += [f"- {'holds' if good else 'DOES NOT HOLD'}: {words}" for words, good in holds(winners, duels)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 0 if every claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 and ResNet-20, see benchmarks/cifar.py")
    parser.add_argument("--budget", type=float, help="seconds of each contestant; by default 200, and 1,200 for cifar")
    parser.add_argument("--store", type=Path, default=STORE, help="folder for the studies")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the page")
    parser.add_argument("--fresh", action="store_true", help="forget earlier studies of these tasks")
    asked: Any = parser.parse_args(arguments)
    if asked.data is not None:
        os.environ["CIFAR_DATA"] = str(asked.data.resolve())
    budgets = {name: asked.budget or BUDGETS_S[name] for name in asked.tasks}
    winners: dict[str, dict[str, Winner]] = {}
    duels: list[Duel] = []
    for name in asked.tasks:
        folder = (asked.store / f"{name}-{budgets[name]:.0f}s").resolve()
        if asked.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        winners[name] = {one: run(name, one, budgets[name], folder) for one in CONTESTANTS}
        ours = winners[name]["default plan"]
        for one in CONTESTANTS[:-1]:
            duels.append(duel(name, ours, winners[name][one]))
            notify(f"{name}: {duels[-1]}")
    text = page(winners, duels, budgets)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(text)
    print(text)
    return 0 if all(good for _, good in holds(winners, duels)) else 1


if __name__ == "__main__":
    sys.exit(main())
