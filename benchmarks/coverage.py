"""Try every technique on architectures that nobody here wrote, on every engine, and write docs/coverage.md.

    pip install --no-deps pytorchcv && pip install transformers
    python -m benchmarks.coverage                           # the whole matrix, about half an hour on two cores
    python -m benchmarks.coverage --only ResNet BERT        # these rows again, the others as they were
    python -m benchmarks.coverage --resume                  # only cells that do not work or are not there yet
    python -m benchmarks.coverage --page                    # write the page again from the figures

Writes docs/coverage.json and docs/coverage.md after every cell; progress goes to standard error.
An architecture has a process of its own: a cell that crashes or hangs costs itself only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import workbench
from benchmarks.coverage_cells import TECHNIQUES
from benchmarks.coverage_page import recipe_text, render
from benchmarks.zoo import ARCHITECTURES, Architecture
from workbench.core.files import atomic_write
from workbench.core.machine import library_versions, this_machine

ROOT = Path(__file__).parents[1]
JSON, PAGE = ROOT / "docs" / "coverage.json", ROOT / "docs" / "coverage.md"
Cell = dict[str, Any]
OnCell = Callable[[str, Cell], None]
_PACKAGES = ("torch", "torch-pruning", "torchao", "onnx", "onnxruntime", "openvino", "pytorchcv", "transformers")


def run_row(
    architecture: Architecture, techniques: Sequence[str], *, timeout_s: float, on_cell: OnCell
) -> dict[str, Cell]:
    """Return the cells of one architecture; a crash or a time-out ends that cell, and a new process goes on."""
    cells: dict[str, Cell] = {}

    def take(technique: str, cell: Cell) -> None:
        cells[technique] = cell
        on_cell(technique, cell)

    while missing := [name for name in techniques if name not in cells]:
        why = _run_child(architecture.name, missing, timeout_s, take) or "the process ended without an answer"
        if missing[-1] not in cells:
            first = next(name for name in missing if name not in cells)
            take(first, {"status": "failed", "reason": why, "steps": [], "engines": {}, "seconds": timeout_s})
    return cells


def _run_child(name: str, techniques: Sequence[str], timeout_s: float, take: OnCell) -> str | None:
    """Hand over the cells that one child process finishes; return why it ended early, if it did."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.coverage_cells", name, *techniques]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            for line in _lines(child, timeout_s):
                cell = json.loads(line)
                take(cell.pop("technique"), cell)
        except queue.Empty:
            return f"no answer within {timeout_s:g} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
        if code == 0:
            return None
        errors.seek(0)
        last = (errors.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    return f"the process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}: {last[:200]}"


def _lines(child: subprocess.Popen[bytes], timeout_s: float) -> Iterator[bytes]:
    """Yield the child's lines until it has ended; raise ``queue.Empty`` where one takes longer than the time-out."""
    lines: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        for line in child.stdout or ():
            lines.put(line)
        child.wait()
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while line := lines.get(timeout=timeout_s):
        yield line


def run(architectures: Sequence[Architecture], found: dict[str, Any], *, jobs: int, timeout_s: float) -> dict[str, Any]:
    """Return the figures of the matrix; cells that ``found`` holds are not tried again. Written after every cell."""
    rows: dict[str, dict[str, Cell]] = {row["name"]: row["cells"] for row in found.get("architectures", ())}
    lock = threading.Lock()

    def one(architecture: Architecture) -> None:
        row = rows.setdefault(architecture.name, {})

        def on_cell(technique: str, cell: Cell) -> None:
            line = f"{architecture.name}: {technique}: {cell['status']} in {cell['seconds']} s. {cell['reason'] or ''}"
            with lock:
                print(line, file=sys.stderr, flush=True)
                row[technique] = cell
                write(figures(rows))

        missing = [technique.name for technique in TECHNIQUES if technique.name not in row]
        run_row(architecture, missing, timeout_s=timeout_s, on_cell=on_cell)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, architectures))
    return figures(rows)


def usable(found: dict[str, Any], wanted: Sequence[str], *, resume: bool) -> dict[str, Any]:
    """Return ``found`` without the cells to try again: of the rows ``wanted`` all, or with ``resume`` what fails.

    Cells that another recipe or other versions of the libraries gave never stay.
    """
    recipes = {technique["name"]: technique["recipe"] for technique in found.get("techniques", ())}
    current = {t.name for t in TECHNIQUES if recipes.get(t.name) == recipe_text(t.recipe())}
    if found.get("versions") != versions():
        current = set()
    rows = []
    for row in found.get("architectures", ()):
        again = row["name"] in wanted
        cells = {
            name: cell
            for name, cell in row["cells"].items()
            if name in current and (not again or (resume and cell["status"] == "works"))
        }
        rows.append({**row, "cells": cells})
    return {**found, "architectures": rows}


def versions() -> dict[str, str | None]:
    """Return what the figures depend on."""
    return library_versions(_PACKAGES) | {"workbench": workbench.__version__, "python": this_machine().python}


def figures(rows: dict[str, dict[str, Cell]]) -> dict[str, Any]:
    """Return everything that the page is made from."""
    about = ("name", "kind", "source", "what")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "cpu": this_machine().cpu_model,
        "int8_dot": this_machine().int8_dot,
        "techniques": [{"name": t.name, "recipe": recipe_text(t.recipe()), "promised": t.promised} for t in TECHNIQUES],
        "architectures": [
            {key: getattr(a, key) for key in about}
            | {"cells": {t.name: rows[a.name][t.name] for t in TECHNIQUES if t.name in rows[a.name]}}
            for a in ARCHITECTURES
            if rows.get(a.name)
        ],
    }


def write(values: dict[str, Any]) -> None:
    """Write the figures and the page."""
    for path, text in ((JSON, json.dumps(values, indent=1) + "\n"), (PAGE, render(values))):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, and print how many cells work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [a.name for a in ARCHITECTURES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ARCHITECTURE", help="these rows")
    parser.add_argument("--resume", action="store_true", help="keep the cells that work in docs/coverage.json")
    parser.add_argument("--page", action="store_true", help="only write docs/coverage.md from docs/coverage.json")
    parser.add_argument("--jobs", type=int, default=2, help="architectures at a time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a cell may take")
    options = parser.parse_args(arguments)
    found = json.loads(JSON.read_text(encoding="utf-8")) if JSON.exists() else {}
    if options.page:
        PAGE.write_text(render(found), encoding="utf-8")
        return 0
    found = usable(found, options.only, resume=options.resume)
    chosen = [a for a in ARCHITECTURES if a.name in options.only]
    values = run(chosen, found, jobs=options.jobs, timeout_s=options.timeout)
    cells = [cell for row in values["architectures"] for cell in row["cells"].values()]
    print(f"{sum(cell['status'] == 'works' for cell in cells)} of {len(cells)} cells work; see {PAGE.name}")
    return int(any(cell["status"] == "failed" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
