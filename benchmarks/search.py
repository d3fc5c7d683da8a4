"""The workbench's search against Olive's and NNCF's, with the same time, data and threads, on ResNet-20/CIFAR-10.

    python -m benchmarks.search --data DIR [--minutes 20] [--seeds 3] [--tools workbench,olive,nncf] [--work DIR]

One question for all: the fastest model at batch size 32 on this CPU that loses at most 1 point of accuracy against the
float ResNet-20. Each tool decides with training, calibration and validation images alone; on 1,000 images that none has
seen, all that was chosen is then judged in one run, on the engines of the workbench.

What a tool chose with a seed is kept in ``--work`` and not searched again, so that the three hours may be spent in
several calls: ``--tools olive --only-seed 1 --no-judge`` does one of them. Without ``--no-judge`` the last step takes
all that is there. Olive lives in an environment of its own, which is made in ``--work`` (downloads of some hundred MB)
unless ``--olive-python`` names one.

Writes a page and a chart. Exits with 1 where the median seed of the workbench is not at least as good as that of each
other tool: within the limit, and slower by no more than the noise floor of this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.search_common import Candidate, Say, Setting, prepare
from benchmarks.search_judge import Judged, duel, judge, median_of, table
from benchmarks.search_nncf import run_nncf
from benchmarks.search_olive import run_olive
from benchmarks.search_ours import run_workbench
from benchmarks.search_page import chart, page
from workbench.core.machine import default_threads
from workbench.measure.comparison.noise import machine_floor
from workbench.plots.drawing.figure import figure_png

OURS = "workbench"
TOOLS: dict[str, Callable[[Setting, int, Path, Say], Candidate]] = {
    OURS: run_workbench,
    "olive": run_olive,
    "nncf": run_nncf,
}
RESULTS = Path(__file__).parent / "results" / "search"
WORK = Path("search-benchmark")
OLIVE = ("olive-ai==0.13.0", "torch", "onnxruntime", "openvino>=2026.0", "nncf>=3.0", "requests")
"""What Olive's environment needs: olive-ai imports requests without saying so, and its extra openvino wants numpy 1."""
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def notify(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def olive_python(given: Path | None, work: Path) -> Path:
    """Return the Python of Olive's environment, which is made where it is not there yet."""
    if given is not None:
        return given.absolute()  # not resolved: a link is what makes it an environment
    home = work / "olive"
    python = (home / "bin" / "python").absolute()
    if not python.exists():
        notify(f"making Olive's environment in {home}")
        temporary = work / "olive.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(temporary)], check=True)
        pip = [str(temporary / "bin" / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
        index = ["--index-url", os.environ["TORCH_INDEX_URL"]] if os.environ.get("TORCH_INDEX_URL") else []
        for command in ([*pip, *index, "torch"], [*pip, *OLIVE]):
            subprocess.run(command, check=True)
        temporary.rename(home)  # its python is called by path, so that nothing in it depends on the old name
    return python


def kept(work: Path) -> list[tuple[Candidate, Path]]:
    """Return what is there already, tool by tool and seed by seed, each with its folder."""
    found = []
    for path in sorted((work / "chosen").glob("*/candidate.json")):
        if path.parent.name.startswith("."):  # a search that was stopped
            continue
        values = json.loads(path.read_text(encoding="utf-8"))
        found.append((Candidate(**{**values, "notes": tuple(values["notes"])}), path.parent))
    return found


def searched(tool: str, seed: int, setting: Setting, work: Path) -> None:
    """Have a tool search with a seed, unless what it chose is kept; a search that fails leaves nothing behind."""
    target = work / "chosen" / f"{tool}-{seed}"
    if target.exists():
        notify(f"{tool}, seed {seed}: known already")
        return
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    notify(f"{tool}, seed {seed}: {setting.seconds:.0f} s")
    candidate = TOOLS[tool](setting, seed, temporary, notify)
    text = json.dumps(dataclasses.asdict(candidate), indent=1) + "\n"
    (temporary / "candidate.json").write_text(text, encoding="utf-8")
    temporary.rename(target)
    notify(f"{tool}, seed {seed}: {candidate.words} after {candidate.seconds:.0f} s, {candidate.tried} tried")


def verdicts(rows: Sequence[Judged], floor: float) -> tuple[list[str], list[str], bool]:
    """Return in sentences how the median seeds and each pair of seeds stand, and whether ours holds."""
    mine = median_of(rows, OURS)
    peers = [tool for tool in dict.fromkeys(row.candidate.tool for row in rows) if tool != OURS]
    if mine is None:
        return ["The workbench was not searched with."], [], False
    medians = [duel(mine, peer, floor) for tool in peers if (peer := median_of(rows, tool)) is not None]
    pairs = []
    for row in (row for row in rows if row.candidate.tool == OURS):
        same = (peer for peer in rows if peer.candidate.tool != OURS and peer.candidate.seed == row.candidate.seed)
        pairs += [duel(row, peer, floor).words for peer in same]
    return [one.words for one in medians], pairs, bool(medians) and all(one.as_good for one in medians)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10 and the trained ResNet-20")
    parser.add_argument("--minutes", type=float, default=20.0, help="for each tool and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-seed", type=int, help="one seed of them")
    parser.add_argument("--tools", default=",".join(TOOLS), help="which of them search in this call")
    parser.add_argument("--no-judge", action="store_true", help="search only")
    parser.add_argument("--work", type=Path, default=WORK, help="where environment, models and results are kept")
    parser.add_argument("--olive-python", type=Path, help="Python of an environment with olive-ai, openvino and nncf")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--loads", type=int, default=4, help="how often all models are loaded for the last timing")
    parser.add_argument("--output", type=Path, default=RESULTS / "README.md", help="the page; the chart lies beside it")
    given = parser.parse_args()
    given.tools = [name for name in given.tools.split(",") if name]
    if unknown := [name for name in given.tools if name not in TOOLS]:
        parser.error(f"no tool {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    if given.minutes <= 0 or given.seeds < 1 or given.loads < 1:
        parser.error("--minutes must be above 0, --seeds and --loads at least 1")
    if given.only_seed is not None and not 0 <= given.only_seed < given.seeds:
        parser.error(f"--only-seed must be one of 0 to {given.seeds - 1}")
    return given


def main() -> int:
    """Search what is missing, judge all that is there, write, and say how it stands."""
    given = arguments()
    os.environ["CIFAR_DATA"] = str(given.data.resolve())
    torch.set_num_threads(given.threads)
    work = given.work.absolute()
    setting = prepare(work, given.threads, 60 * given.minutes)
    if "olive" in given.tools:
        setting = dataclasses.replace(setting, olive=olive_python(given.olive_python, work))
    for seed in range(given.seeds) if given.only_seed is None else [given.only_seed]:
        for tool in given.tools:
            searched(tool, seed, setting, work)
    if given.no_judge:
        return 0
    rows, base = judge(setting.task, kept(work), threads=given.threads, loads=given.loads, notify=notify)
    words, pairs, holds = verdicts(rows, machine_floor())
    given.output.parent.mkdir(parents=True, exist_ok=True)
    text = page(table(rows, base), words, pairs, rows, threads=given.threads, picture="search.png")
    given.output.write_text(text + "\n", encoding="utf-8")
    given.output.with_name("search.png").write_bytes(figure_png(chart(rows, base)))
    print(text)
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
