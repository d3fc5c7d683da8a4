"""Every backend that runs here beside the same runtimes called by hand, and how near they come to this machine's peak.

    python benchmarks/engines.py [--data DIR] [--models NAME ...] [--batches 1 8 32] [--rounds 12] [--output DIR]

Models: ResNet-20 with its trained weights (needs ``--data``), the embedded ``digits_vit``, and transformers' ResNet-18
(64 x 64 pixels) and a BERT of 6 layers (256 wide, 64 tokens) with random weights. For each model and batch all engines,
``backend="auto"`` and calls by hand (torch eager, torch.compile, ONNX Runtime, OpenVINO, each with its own default
settings on the same number of threads) are timed in blocks that alternate in one run. auto has chosen before, in a run
of its own. The share of the peak is that of the fastest float32 matrix product measured in the same run.

OpenVINO computes in bfloat16 by default where the CPU has it, the others in float32. So there are two of it by hand,
and two of auto: the one in float32, as an engine computes unless told otherwise, is held against the fastest by hand in
float32, and ``auto 16 bits`` (``precision="auto"``) against the fastest by hand of all.

Writes ``engines.json`` after every cell and ``engines.md`` at the end. Exits with 1 where the 95 % interval of auto's
time over that of its fastest call by hand lies wholly above 1.02.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import workbench as wb
from benchmarks.zoo.build import from_transformers
from benchmarks.zoo.task import Architecture, images, task_of, tokens
from workbench.compress.variant import Variant
from workbench.core.errors import WorkbenchError
from workbench.core.machine import default_threads, library_versions, this_machine
from workbench.core.stats import ratio_interval
from workbench.engine.backends import BACKENDS
from workbench.engine.backends.openvino_ import import_openvino
from workbench.measure.timing import CallArm, interleave
from workbench.tasks import Task

LIMIT = 1.02
SIXTEEN = "auto 16 bits"
PEAK_SIDE = 1536
RESULTS = Path(__file__).parent / "results" / "engines"
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """One arm of a cell: ``share`` of the measured peak, ``ratio`` of its time over that of the fastest by hand."""

    model: str
    batch: int
    arm: str
    ms: float
    share: float
    ratio: float
    low: float
    high: float
    note: str = ""

    @property
    def fine(self) -> bool:
        """Whether auto holds its promise in this cell."""
        return not self.arm.startswith("auto") or self.low <= LIMIT


def _resnet18() -> Task:
    build = from_transformers(
        "ResNetModel",
        "ResNetConfig",
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
    )
    return task_of(Architecture("resnet18", "CNN", "transformers", "64 x 64 pixels", build, images(64)))


def _bert() -> Task:
    build = from_transformers(
        "BertModel",
        "BertConfig",
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=1024,
        vocab_size=1000,
    )

    def words(n: int, generator: torch.Generator) -> torch.Tensor:
        return tokens(n, generator, length=64, words=1000)

    return task_of(Architecture("bert6", "transformer", "transformers", "64 tokens", build, words))


def models(data: Path | None) -> dict[str, Callable[[], Task]]:
    """Return the tasks by name; ResNet-20 only where its data is given."""
    found: dict[str, Callable[[], Task]] = {}
    if data is not None:
        os.environ["CIFAR_DATA"] = str(data)
        from benchmarks.cifar import cifar10

        found["resnet20"] = cifar10
    return found | {"digits_vit": wb.tasks.digits_vit, "resnet18": _resnet18, "bert6": _bert}


def peak_gflops(threads: int) -> float:
    """Return billions of floating point operations per second of a large float32 product, the best of several."""
    torch.set_num_threads(threads)
    a, b = torch.rand(PEAK_SIDE, PEAK_SIDE), torch.rand(PEAK_SIDE, PEAK_SIDE)
    arm = CallArm("peak", lambda: a @ b)
    arm.warm()
    return 2 * PEAK_SIDE**3 / min(min(arm.block(0.3)) for _ in range(5)) / 1e6


def by_hand(variant: Variant, path: Path, x: np.ndarray, threads: int) -> dict[str, Call]:
    """Return the calls that a person writes with each runtime's default settings on ``threads`` threads."""
    import onnxruntime

    tensor = torch.from_numpy(x)
    module = variant.module

    def in_torch(function: nn.Module | Callable[..., Any]) -> Call:
        def run() -> Any:
            with torch.inference_mode():
                return function(tensor)

        return run

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    settings = {"INFERENCE_NUM_THREADS": threads}
    compiled = import_openvino().compile_model(str(path), "CPU", settings)
    plain = import_openvino().compile_model(str(path), "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})
    return {
        "eager by hand": in_torch(module),
        "torch.compile by hand": in_torch(torch.compile(module)),
        "onnxruntime by hand": lambda: session.run(None, {name: x}),
        "openvino by hand": lambda: compiled(x),
        "openvino by hand, float32": lambda: plain(x),
    }


@contextlib.contextmanager
def engines(variant: Variant, batch: int, threads: int, left_out: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Give an engine for each backend that can run the variant and one for auto; the others say why not."""
    with contextlib.ExitStack() as stack:
        ready: dict[str, Any] = {}
        for backend in (*BACKENDS, "auto", SIXTEEN):
            options = {"backend": backend, "batch_size": batch, "threads": threads}
            if backend == SIXTEEN:
                options |= {"backend": "auto", "precision": "auto"}
            try:
                engine = wb.OptimizedInferenceEngine.from_variant(variant, **options)
            except WorkbenchError as error:
                left_out[backend] = str(error)
                continue
            ready[backend] = stack.enter_context(engine)
        yield ready


def cell(task: Task, batch: int, threads: int, rounds: int, peak: float) -> tuple[list[Line], dict[str, str]]:
    """Time all arms of one model at one batch size; also return what could not run, with the reason."""
    variant = Variant.original(task)
    example = task.examples(batch)
    x = np.ascontiguousarray(example.numpy())
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, engines(variant, batch, threads, left_out) as ready:
        variant.save(Path(folder) / "artefact")
        calls = by_hand(variant, Path(folder) / "artefact" / "model.onnx", x, threads)
        hand = list(calls)
        exact = [name for name in hand if name != "openvino by hand"]
        calls |= {name: (lambda e=engine: e.predict(x)) for name, engine in ready.items()}
        arms = [CallArm(name, call) for name, call in calls.items()]
        for arm in arms:
            arm.warm()
        blocks = interleave(arms, rounds=(rounds, rounds)).blocks
        note = {name: f"took {e.backend} in {e.precision}" for name, e in ready.items() if name.startswith("auto")}
    medians = {name: float(np.median([np.median(block) for block in found])) for name, found in blocks.items()}
    lines = []
    for name, ms in medians.items():
        best = min(hand if name in (SIXTEEN, "openvino by hand") else exact, key=medians.__getitem__)
        ratio, low, high = ratio_interval(blocks[name], blocks[best])
        share = 2e-6 * variant.macs * batch / ms / peak
        lines.append(Line(task.name, batch, name, ms, share, ratio, low, high, note.get(name, "")))
    return lines, left_out


def table(lines: list[Line]) -> str:
    """Return the lines as a table in Markdown, the fastest of each cell first."""
    text = [
        "| model | batch | arm | ms | share of peak | time over the fastest by hand (95 %) | |",
        "|---|---:|---|---:|---:|---:|---|",
    ]
    text += [
        f"| {line.model} | {line.batch} | {line.arm} | {line.ms:.3g} | {line.share:.0%} "
        f"| {line.ratio:.3f} ({line.low:.3f} to {line.high:.3f}) | {line.note} |"
        for line in sorted(lines, key=lambda line: (line.model, line.batch, line.ms))
    ]
    return "\n".join(text)


def page(lines: list[Line], left_out: dict[str, str], peak: float, threads: int) -> str:
    """Return the whole result in Markdown."""
    versions = library_versions(("torch", "onnxruntime", "openvino", "transformers", "numpy"))
    machine = f"{this_machine().cpu_model}, {threads} threads, matrix products at {peak:.0f} GFLOP/s; "
    missing = [f"- {where}: {reason}" for where, reason in left_out.items()]
    return "\n\n".join(
        (
            "Written by `python benchmarks/engines.py --data DIR`; not edited by hand.",
            table(lines),
            *(["Left out:\n\n" + "\n".join(missing)] if missing else []),
            machine + ", ".join(f"{name} {version}" for name, version in versions.items()),
        )
    )


def main() -> int:
    """Measure, write, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 and the trained ResNet-20")
    parser.add_argument("--models", nargs="+", help="some of resnet20 digits_vit resnet18 bert6; default: all")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=12, help="rounds of one block of every arm")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for engines.md and engines.json")
    given = parser.parse_args()
    known = models(given.data)
    wanted = given.models or list(known)
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"no model {', '.join(unknown)} here; there are {', '.join(known)} (resnet20 needs --data)")
    peak = peak_gflops(given.threads)
    given.output.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    left_out: dict[str, str] = {}
    for name in wanted:
        task = known[name]()
        for batch in given.batches:
            found, missing = cell(task, batch, given.threads, given.rounds, peak)
            lines += found
            left_out |= {f"{task.name}, batch {batch}, {backend}": reason for backend, reason in missing.items()}
            print(table(found), flush=True)
            rows = [dataclasses.asdict(line) for line in lines]
            (given.output / "engines.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            (given.output / "engines.md").write_text(
                page(lines, left_out, peak, given.threads) + "\n", encoding="utf-8"
            )
            torch.compiler.reset()
            gc.collect()
    return int(not all(line.fine for line in lines))


if __name__ == "__main__":
    sys.exit(main())
