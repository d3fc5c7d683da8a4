"""Every backend that runs here beside the same runtimes called by hand, and how near they come to this machine's peak.

    python -m benchmarks.engines [--data DIR] [--models NAME ...] [--batches 1 8 32] [--rounds 12] [--output DIR]

Models: ResNet-20 with its trained weights (needs ``--data``), the embedded ``digits_vit``, and transformers' ResNet-18
(64 x 64 pixels) and a BERT of 6 layers (256 wide, 64 tokens) with random weights. For each model and batch all engines,
``backend="auto"`` and calls by hand (torch eager, torch.compile, ONNX Runtime, OpenVINO, each with its own default
settings on the same number of threads) are timed in blocks that alternate in one run. The share of the peak is that of
the fastest float32 matrix product measured in the same run. The process has the steady allocator, for all arms alike.

OpenVINO computes in bfloat16 by default where the CPU has it, the others in float32. So there are two of it by hand,
and two of auto: the one in float32, as an engine computes unless told otherwise, is held against the fastest by hand in
float32, and ``auto 16 bits`` (``precision="auto"``) against the fastest by hand of all.

auto is judged in runs of their own, beside the call by hand that was the fastest in the table: two sessions of one
model differ by several per cent of a call, for as long as they live, by where their memory happens to lie. So auto
chooses and loads anew ``--loads`` times, the call by hand beside it is loaded anew too, and the pairs of blocks of all
loads are taken together.

Writes ``engines.json`` after every cell and ``engines.md`` at the end. Exits with 1 where the 95 % interval of auto's
time over that of its fastest call by hand lies wholly above 1.02.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import workbench as wb
from benchmarks.zoo.build import from_transformers
from benchmarks.zoo.task import Architecture, images, task_of, tokens
from workbench.compress.variant import Variant
from workbench.core.allocator import allocator_state, use_steady_allocator
from workbench.core.errors import WorkbenchError
from workbench.core.machine import default_threads, library_versions, this_machine
from workbench.core.stats import ratio_interval
from workbench.engine.backends.openvino.runtime import import_openvino
from workbench.engine.names import BACKENDS
from workbench.tasks import Task
from workbench.timing.interleave import CallArm, interleave

LIMIT = 1.02
SIXTEEN = "auto 16 bits"
SIXTEEN_BY_HAND = "openvino by hand"
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
    return 2 * PEAK_SIDE**3 / min(arm.block(0.3).ms.min() for _ in range(5)) / 1e6


def by_hand(variant: Variant, path: Path, x: np.ndarray, threads: int) -> dict[str, Callable[[], Call]]:
    """Return what loads each runtime with its default settings on ``threads`` threads and gives a person's call."""
    tensor = torch.from_numpy(x)

    def in_torch(compiled: bool) -> Call:
        module = copy.deepcopy(variant.module)
        function = torch.compile(module) if compiled else module

        def run() -> Any:
            with torch.inference_mode():
                return function(tensor)

        return run

    def in_onnxruntime() -> Call:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: x})

    def in_openvino(**more: str) -> Call:
        settings = {"INFERENCE_NUM_THREADS": threads, **more}
        compiled = import_openvino().compile_model(str(path), "CPU", settings)
        return lambda: compiled(x)

    return {
        "eager by hand": functools.partial(in_torch, False),
        "torch.compile by hand": functools.partial(in_torch, True),
        "onnxruntime by hand": in_onnxruntime,
        SIXTEEN_BY_HAND: in_openvino,
        "openvino by hand, float32": functools.partial(in_openvino, INFERENCE_PRECISION_HINT="f32"),
    }


@contextlib.contextmanager
def engines(
    variant: Variant, batch: int, threads: int, left_out: dict[str, str], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Give an engine for each name, a backend or auto, that can run the variant; the others say why not."""
    with contextlib.ExitStack() as stack:
        ready: dict[str, Any] = {}
        for name in names:
            options = {"backend": name, "batch_size": batch, "threads": threads}
            if name == SIXTEEN:
                options |= {"backend": "auto", "precision": "auto"}
            try:
                engine = wb.OptimizedInferenceEngine.from_variant(variant, **options)
            except WorkbenchError as error:
                left_out[name] = str(error)
                continue
            ready[name] = stack.enter_context(engine)
        yield ready


def timed(calls: dict[str, Call], rounds: int) -> dict[str, list[np.ndarray]]:
    """Return the milliseconds of each call, block by block."""
    arms = [CallArm(name, call) for name, call in calls.items()]
    for arm in arms:
        arm.warm()
    return interleave(arms, rounds=(rounds, rounds)).blocks


@dataclasses.dataclass
class Cell:
    """One model at one batch size."""

    task: Task
    batch: int
    plan: argparse.Namespace
    peak: float

    def measure(self) -> tuple[list[Line], dict[str, str]]:
        """Time all arms and judge auto; also return what could not run, with the reason."""
        variant = Variant.original(self.task)
        x = np.ascontiguousarray(self.task.examples(self.batch).numpy())
        left_out: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            variant.save(Path(folder) / "artifact")
            hand = by_hand(variant, Path(folder) / "artifact" / "model.onnx", x, self.plan.threads)
            with engines(variant, self.batch, self.plan.threads, left_out, BACKENDS) as ready:
                calls = {name: load() for name, load in hand.items()}
                calls |= {name: (lambda e=engine: e.predict(x)) for name, engine in ready.items()}
                blocks = timed(calls, self.plan.rounds)
            medians = {name: float(np.median([np.median(block) for block in found])) for name, found in blocks.items()}
            exact = min((name for name in hand if name != SIXTEEN_BY_HAND), key=medians.__getitem__)
            bests = dict.fromkeys(blocks, exact) | {SIXTEEN_BY_HAND: min(hand, key=medians.__getitem__)}
            lines = [self._line(variant, name, blocks[name], blocks[bests[name]]) for name in blocks]
            for name, best in (("auto", exact), (SIXTEEN, bests[SIXTEEN_BY_HAND])):
                lines.append(self._judged(variant, name, best, hand[best], x, left_out))
        return lines, left_out

    def _judged(
        self, variant: Variant, name: str, best: str, load: Callable[[], Call], x: np.ndarray, left_out: dict[str, str]
    ) -> Line:
        """Load auto and the call by hand anew, several times, and take the pairs of blocks together."""
        both: dict[str, list[np.ndarray]] = {name: [], best: []}
        took: dict[str, None] = {}
        for number in range(self.plan.loads):
            call = load() if number % 2 else None
            with engines(variant, self.batch, self.plan.threads, left_out, [name]) as ready:
                engine = ready[name]
                took[f"{engine.backend} in {engine.precision}"] = None
                found = timed({best: call or load(), name: lambda e=engine: e.predict(x)}, self.plan.rounds // 2)
            for arm, blocks in found.items():
                both[arm] += blocks
            gc.collect()
        return self._line(variant, name, both[name], both[best], f"took {', '.join(took)}; beside {best}")

    def _line(
        self, variant: Variant, name: str, blocks: list[np.ndarray], base: list[np.ndarray], note: str = ""
    ) -> Line:
        ms = float(np.median([np.median(block) for block in blocks]))
        ratio, low, high = ratio_interval(blocks, base)
        share = 2e-6 * variant.macs * self.batch / ms / self.peak
        return Line(self.task.name, self.batch, name, ms, share, ratio, low, high, note)


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
    machine += f"allocator {allocator_state()}; "
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
    parser.add_argument("--loads", type=int, default=4, help="how often auto and the call beside it are loaded")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for engines.md and engines.json")
    given = parser.parse_args()
    use_steady_allocator()
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
            found, missing = Cell(task, batch, given, peak).measure()
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
