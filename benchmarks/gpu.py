"""torch's ways to run a model on a CUDA device: eager, CUDA graphs and torch.compile, in every precision it has.

    python -m benchmarks.gpu [--batches 1 8 32] [--rounds 12] [--device cuda:0] [--output DIR]

The model is the embedded ``digits_vit`` with its trained weights. For each batch size all engines are timed in blocks
that alternate in one run, from numpy array to numpy array: the copies to the device and back are part of a call. The
device's own time of the computation stands beside it, and the largest difference from torch eager on the CPU.

Writes ``gpu.md`` and ``gpu.json``. Without a CUDA device it says so in one line and exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import workbench as wb
from workbench.compress.variant import Variant
from workbench.core.errors import WorkbenchError
from workbench.core.machine import library_versions
from workbench.core.stats import ratio_interval
from workbench.engine.device import find_cuda
from workbench.tasks import Task
from workbench.timing.interleave import CallArm, interleave

RESULTS = Path(__file__).parent / "results" / "gpu"
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
WAYS: dict[str, dict[str, Any]] = {
    "eager": {"backend": "torch-eager"},
    "graph": {"backend": "torch-eager", "cuda_graph": True},
    "compile": {"backend": "torch-compile", "compile_mode": "reduce-overhead"},
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One engine at one batch size; ``ratio`` is its time over that of eager float32, with its 95 % interval."""

    batch: int
    way: str
    precision: str
    ms: float
    compute_ms: float
    ratio: float
    low: float
    high: float
    max_abs_diff: float
    peak_mib: float | None


class Calls:
    """Calls an engine, and keeps what the device says about each call."""

    def __init__(self, engine: Any, x: np.ndarray) -> None:
        self.engine, self.x = engine, x
        self.compute_ms: list[float] = []
        self.peak_mib: float | None = None

    def __call__(self) -> None:
        metrics = self.engine.predict(self.x).metrics
        self.compute_ms.append(metrics.compute_ms)
        self.peak_mib = metrics.peak_memory_mib


@contextlib.contextmanager
def engines(
    variant: Variant, batch: int, device: str, arms: Sequence[tuple[str, str]], left_out: dict[str, str]
) -> Iterator[dict[tuple[str, str], Any]]:
    """Give an engine for each way and precision that runs here as asked; the others say why not."""
    with contextlib.ExitStack() as stack:
        ready: dict[tuple[str, str], Any] = {}
        for way, precision in arms:
            options = {**WAYS[way], "batch_size": batch, "device": device, "precision": precision, "strict": True}
            try:
                engine = wb.OptimizedInferenceEngine.from_variant(variant, **options)
            except WorkbenchError as error:
                left_out[f"batch {batch}, {way} {precision}"] = str(error)
                continue
            ready[way, precision] = stack.enter_context(engine)
            for note in engine.notes:
                if note.startswith("cuda_graph=True"):
                    left_out[f"batch {batch}, {way} {precision}"] = note
        yield ready


def cell(
    task: Task, batch: int, device: str, rounds: int, arms: Sequence[tuple[str, str]]
) -> tuple[list[Line], dict[str, str]]:
    """Time all engines at one batch size; also return what could not run, with the reason."""
    variant = Variant.original(task)
    x = np.ascontiguousarray(task.examples(batch).numpy())
    left_out: dict[str, str] = {}
    with engines(variant, batch, device, arms, left_out) as ready:
        calls = {key: Calls(engine, x) for key, engine in ready.items()}
        timed = [CallArm(" ".join(key), call) for key, call in calls.items()]
        for arm in timed:
            arm.warm()
        for call in calls.values():
            call.compute_ms.clear()
        blocks = interleave(timed, rounds=(rounds, rounds)).blocks if timed else {}
        diffs = {key: engine.max_abs_diff for key, engine in ready.items()}
    first = next(iter(blocks.values()), [])
    lines = []
    for (way, precision), call in calls.items():
        found = blocks[f"{way} {precision}"]
        ms = float(np.median([np.median(block) for block in found]))
        compute = float(np.median(call.compute_ms))
        ratio = ratio_interval(found, first)
        lines.append(Line(batch, way, precision, ms, compute, *ratio, diffs[way, precision] or 0.0, call.peak_mib))
    return lines, left_out


def table(lines: Sequence[Line]) -> str:
    """Return the lines as a table in Markdown, the fastest of each batch size first."""
    text = [
        "| batch | way | precision | ms per call | ms on the device | samples/s | time over eager float32 (95 %) "
        "| max. difference | peak MiB |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for line in sorted(lines, key=lambda line: (line.batch, line.ms)):
        peak = "" if line.peak_mib is None else f"{line.peak_mib:.1f}"
        text.append(
            f"| {line.batch} | {line.way} | {line.precision} | {line.ms:.3g} | {line.compute_ms:.3g} "
            f"| {1e3 * line.batch / line.ms:.0f} | {line.ratio:.3f} ({line.low:.3f} to {line.high:.3f}) "
            f"| {line.max_abs_diff:.2g} | {peak} |"
        )
    return "\n".join(text)


def page(lines: Sequence[Line], left_out: dict[str, str], where: str) -> str:
    """Return the whole result in Markdown."""
    missing = "\n".join(f"- {name}: {reason}" for name, reason in left_out.items())
    parts = ["Written by `python -m benchmarks.gpu`; not edited by hand.", table(lines)]
    return "\n\n".join([*parts, *(["Left out:\n\n" + missing] if missing else []), where]) + "\n"


def whereabouts(device: str) -> str:
    """Return the device, its driver and the versions in one line."""
    import pynvml

    pynvml.nvmlInit()
    found = torch.cuda.get_device_properties(device)
    versions = library_versions(("torch", "numpy", "inference-workbench"))
    return (
        f"{found.name} ({found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}), driver "
        f"{pynvml.nvmlSystemGetDriverVersion()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=12, help="rounds of one block of every engine")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gpu.md and gpu.json")
    given = parser.parse_args(arguments)
    cuda = find_cuda()
    if not cuda.names:
        print(f"Nothing to measure: {cuda.reason}; {cuda.advice}.")
        return 1
    task = wb.tasks.digits_vit()
    arms = [(way, precision) for way in WAYS for precision in PRECISIONS]
    where = whereabouts(given.device)
    lines: list[Line] = []
    left_out: dict[str, str] = {}
    given.output.mkdir(parents=True, exist_ok=True)
    for batch in given.batches:
        found, missing = cell(task, batch, given.device, given.rounds, arms)
        lines += found
        left_out |= missing
        print(table(found), flush=True)
        rows = {"where": where, "lines": [dataclasses.asdict(line) for line in lines], "left_out": left_out}
        (given.output / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (given.output / "gpu.md").write_text(page(lines, left_out, where), encoding="utf-8")
        torch.compiler.reset()
    print(where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
