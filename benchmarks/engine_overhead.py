"""What an engine's predict and stream cost on top of the runtime's own call, on models that the workbench brings.

    python benchmarks/engine_overhead.py [--rounds 5] [--loads 6] [--output benchmarks/results/engine_overhead.md]

Each engine is held against the call that a careful person writes by hand for the same runtime, with the same threads
and settings, in blocks that alternate in one run; a stream of inputs against a loop over the same calls. Two sessions
of one model differ by up to 3 % of a call, for as long as they live, by where their memory happens to lie: so both
sides are loaded several times, in turn, and the pairs of blocks of all loads are taken together. The process has the
steady allocator. Prints the medians of both and the overhead with its interval. Exits with 1 if the overhead of predict
is above 2 % of the call and above 25 microseconds (50 for a call of more than a millisecond, after which the processor
has to fetch the engine's own code anew), or if a stream of whole batches has less than 97 % of the loop's throughput.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import workbench as wb
from workbench.compress.variant import Variant
from workbench.core.allocator import allocator_state, use_steady_allocator
from workbench.core.machine import default_threads, library_versions, this_machine
from workbench.core.stats import bootstrap_median
from workbench.engine.backends.openvino.runtime import import_openvino, shared_core
from workbench.tasks import Task
from workbench.timing.interleave import CallArm, interleave
from workbench.timing.settling import SETTLE_S

LIMIT_US, LIMIT_COLD_US, COLD_US = 25.0, 50.0, 1000.0
"""Microseconds that predict may add to a short call, to a longer one, and what counts as longer."""
LIMIT_SHARE, LIMIT_STREAM = 0.02, 0.97
BATCHES = (1, 32)
STREAMED = 24
"""Calls in one stream."""
BACKENDS = ("torch-eager", "onnxruntime", "openvino")
Call = Callable[[np.ndarray], Any]
Blocks = dict[str, list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Overhead:
    """One model on one engine: medians in microseconds, and the interval of their difference."""

    model: str
    backend: str
    batch: int
    bare_us: float
    engine_us: float
    low_us: float
    high_us: float

    @property
    def fine(self) -> bool:
        """Whether the overhead is within the limits."""
        limit_us = LIMIT_COLD_US if self.bare_us > COLD_US else LIMIT_US
        return self.engine_us - self.bare_us <= max(limit_us, LIMIT_SHARE * self.bare_us)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """A stream beside a loop of calls on one engine: milliseconds of each, and the interval of their ratio."""

    items: str
    backend: str
    loop_ms: float
    share: float
    low: float
    high: float
    judged: bool

    @property
    def fine(self) -> bool:
        """Whether the stream is as fast as it should be; single samples cost a result each, and are only shown."""
        return self.share >= LIMIT_STREAM or not self.judged


def tiny() -> Task:
    """Return a task around two small matrix products: nearly all of a call is overhead."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()

    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(256, 64, generator=generator), torch.randint(0, 10, (256,), generator=generator)
    return Task(
        name="two products",
        build=build,
        train=(inputs, labels),
        evaluation=(inputs + 1, labels),
        metric=lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean()),
        loss=nn.functional.cross_entropy,
    )


def bare(backend: str, module: nn.Module, path: Path, threads: int, shape: tuple[int, ...]) -> Call:
    """Return the runtime's own call, with outputs that the caller owns, as predict gives them."""
    if backend == "torch-eager":
        module = copy.deepcopy(module)

        def run_module(x: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return module(torch.from_numpy(x)).numpy()

        return run_module
    if backend == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})
    model = shared_core().read_model(str(path))
    model.reshape(list(shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    request = shared_core().compile_model(model, "CPU", settings).create_infer_request()
    tensor = import_openvino().Tensor

    def run_request(x: np.ndarray) -> np.ndarray:
        request.set_input_tensor(tensor(x, shared_memory=True))
        request.infer(share_outputs=True)
        return np.array(request.get_output_tensor(0).data)

    return run_request


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured: pairs of blocks for each load, loads, and threads."""

    rounds: int
    loads: int
    threads: int

    def blocks(self, arms: list[CallArm]) -> Blocks:
        """Return the times of calls, block by block."""
        for arm in arms:
            arm.warm()
        return interleave(arms, rounds=(self.rounds, self.rounds)).blocks


def loaded(task: Task, backend: str, batch: int, plan: Plan) -> Iterator[tuple[Call, wb.OptimizedInferenceEngine]]:
    """Yield a call by hand and an engine, loaded anew each time, and each of them first in half of the times."""
    variant = Variant.original(task)
    shape = tuple(task.examples(batch).shape)
    options = {"backend": backend, "batch_size": batch, "threads": plan.threads}
    with tempfile.TemporaryDirectory() as folder:
        variant.save(Path(folder) / "artifact")
        path = Path(folder) / "artifact" / "model.onnx"
        for load in range(plan.loads):
            call = bare(backend, variant.module, path, plan.threads, shape) if load % 2 else None
            with wb.OptimizedInferenceEngine.from_variant(variant, **options) as engine:
                yield call or bare(backend, variant.module, path, plan.threads, shape), engine


def measured(task: Task, batch: int, plan: Plan) -> Iterator[Overhead]:
    """Yield the overhead on every engine, one after the other, each beside its own bare call."""
    x = np.ascontiguousarray(task.examples(batch).numpy())
    for backend in BACKENDS:
        blocks: Blocks = defaultdict(list)
        for call, engine in loaded(task, backend, batch, plan):
            arms = [
                CallArm("bare", lambda call=call: call(x), settle_s=SETTLE_S),
                CallArm("engine", lambda predict=engine.predict: predict(x), settle_s=SETTLE_S),
            ]
            for name, found in plan.blocks(arms).items():
                blocks[name] += found
        yield summary(task.name, backend, batch, blocks)


def streamed(task: Task, batch: int, plan: Plan) -> Iterator[Throughput]:
    """Yield a stream's share of a loop's throughput on every engine: of whole batches, and of single samples."""
    data = np.ascontiguousarray(task.examples(batch * STREAMED).numpy())
    batches, singles = np.split(data, STREAMED), np.split(data, len(data))
    whole, joined = f"batches of {batch}", f"single samples, joined to {batch}"
    for backend in BACKENDS:
        blocks: dict[str, Blocks] = {whole: defaultdict(list), joined: defaultdict(list)}
        for call, engine in loaded(task, backend, batch, plan):
            for words, items, loop in (
                (whole, batches, lambda call=call: [call(x) for x in batches]),
                (joined, singles, lambda call=call: by_hand(call, singles, batch)),
            ):
                arms = [
                    CallArm("loop", loop, settle_s=SETTLE_S),
                    CallArm("stream", lambda items=items, e=engine: list(e.stream(items)), settle_s=SETTLE_S),
                ]
                for name, found in plan.blocks(arms).items():
                    blocks[words][name] += found
        for words, of in blocks.items():
            yield share(words, backend, of, judged=words == whole)


def by_hand(call: Call, samples: list[np.ndarray], batch: int) -> list[np.ndarray]:
    """Join samples, run them and hand out a result for each."""
    results: list[np.ndarray] = []
    for start in range(0, len(samples), batch):
        outputs = call(np.concatenate(samples[start : start + batch]))
        results += [outputs[i : i + 1].copy() for i in range(len(outputs))]
    return results


def share(words: str, backend: str, blocks: Blocks, *, judged: bool) -> Throughput:
    """Return the median of the ratios of pairs of blocks, and its bootstrap interval."""
    loop, stream = (np.array([np.median(block) for block in blocks[name]]) for name in ("loop", "stream"))
    return Throughput(words, backend, float(np.median(loop)), *bootstrap_median(loop / stream), judged)


def summary(model: str, backend: str, batch: int, blocks: Blocks) -> Overhead:
    """Return medians over blocks, and the bootstrap interval of the median difference of pairs of blocks."""
    own, with_engine = (np.array([np.median(block) for block in blocks[name]]) * 1e3 for name in ("bare", "engine"))
    more, low, high = bootstrap_median(with_engine - own)
    middle = float(np.median(own))
    return Overhead(model, backend, batch, middle, middle + more, low, high)


def table(rows: list[Overhead]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| model | engine | batch | bare call (µs) | predict (µs) | overhead in µs (95 %) | of the call |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        more = row.engine_us - row.bare_us
        lines.append(
            f"| {row.model} | {row.backend} | {row.batch} | {row.bare_us:.1f} | {row.engine_us:.1f} "
            f"| {more:+.1f} ({row.low_us:+.1f} to {row.high_us:+.1f}) | {more / row.bare_us:+.1%} |"
        )
    return "\n".join(lines)


def stream_table(rows: list[Throughput]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        f"| digits, {STREAMED} calls | engine | loop (ms) | throughput of stream over that of the loop (95 %) |",
        "|---|---|---:|---:|",
    ]
    lines += [
        f"| {row.items} | {row.backend} | {row.loop_ms:.1f} | {row.share:.1%} ({row.low:.1%} to {row.high:.1%}) |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of blocks of 80 ms for each load")
    parser.add_argument("--loads", type=int, default=6, help="how often each side is loaded")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--output", type=Path, help="also write the tables into this file")
    given = parser.parse_args()
    use_steady_allocator()
    torch.set_num_threads(given.threads)
    plan = Plan(given.rounds, given.loads, given.threads)
    rows = [row for task in (tiny(), wb.tasks.digits()) for batch in BATCHES for row in measured(task, batch, plan)]
    streams = list(streamed(wb.tasks.digits(), 32, plan))
    versions = library_versions(("torch", "onnxruntime", "openvino", "numpy"))
    machine = f"{this_machine().cpu_model}, {given.threads} threads; allocator {allocator_state()}; "
    text = "\n\n".join(
        (
            "Written by `python benchmarks/engine_overhead.py --output FILE`; not edited by hand.",
            table(rows),
            stream_table(streams),
            machine + ", ".join(f"{k} {v}" for k, v in versions.items()),
        )
    )
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")
    return int(not all(row.fine for row in (*rows, *streams)))


if __name__ == "__main__":
    sys.exit(main())
