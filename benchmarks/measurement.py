"""Whether the workbench's verdicts can be trusted on this machine, and whether its figures agree with other tools'.

    python -m benchmarks.measurement [--pairs 200] [--planted 100] [--seed 0] [--output FILE]

- A-A: two engines of one model, loaded separately, compared by ``wb.compare`` within 5 seconds. At most 8 % of the
  pairs may be called different.
- Planted: the same, but every call of the second engine spins for 5 % (and once more, 2 %) of its own time on top. At
  least 90 % of the planted 5 % must be found; the 2 % are shown.
- Beside other tools, in turns of a quarter of a second on one engine: the median of the workbench within 5 % of that
  of MLPerf LoadGen's SingleStream log and of torch.utils.benchmark, turn by turn, and the intervals of the 90th
  percentiles of LoadGen and the workbench overlap. LoadGen counts what its binding takes to hand a query over and
  back, about 10 us here: 1.4 % of a call of ``digits_vit``, more than the width of the intervals. The percentiles are
  therefore judged on that network with wider layers, whose calls take milliseconds, and shown of both.

Backends (torch eager, ONNX Runtime, OpenVINO) and batch sizes (1, 8, 32) take turns over the embedded task ``digits``.
The noise floor is measured first, as ``workbench noise`` does. Nothing is run again. Takes about 31 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import workbench as wb
from workbench.compress.variant import Variant
from workbench.core.machine import default_threads, library_versions, machine_words
from workbench.core.stats import bootstrap_median
from workbench.measure.noise import NoiseFloor, measure_noise
from workbench.measure.timing import CallArm, interleave
from workbench.tasks.models import DigitsViT

BACKENDS = ("torch-eager", "onnxruntime", "openvino")
BATCHES = (1, 8, 32)
LIMIT_S = 5.0
BUDGET_S = 4.5
"""For ``wb.compare``, whose last block may end later."""
MOST_FALSE, LEAST_FOUND, CLOSE = 0.08, 0.90, 0.05
PLANTED = (0.05, 0.02)
SWITCH_MS = 50.0
TURNS = {False: 20, True: 60}
"""Of networks whose calls are short, and long."""
TOGETHER = 5
"""Turns that one pace of the machine may last."""
OUTPUT = Path(__file__).parent / "results" / "measurement.md"


class Slowed:
    """An engine whose every call takes a share longer."""

    def __init__(self, engine: Any, share: float) -> None:
        self._engine, self._share = engine, share
        self.backend, self.threads = f"{engine.backend}, slowed", engine.threads

    def predict(self, inputs: Any) -> Any:
        """Run, and spin for a share of the time that it took."""
        begun = time.perf_counter()
        result = self._engine.predict(inputs)
        now = time.perf_counter()
        end = now + (now - begun) * self._share
        while time.perf_counter() < end:
            pass
        return result


@dataclasses.dataclass(frozen=True)
class Pair:
    """One comparison: ``share`` that was planted, 0 for A-A."""

    backend: str
    batch: int
    share: float
    found: wb.measure.Comparison
    seconds: float


def pairs(variant: Variant, count: int, share: float, floor: float, seed: int) -> Iterator[Pair]:
    """Yield ``count`` comparisons of two separately loaded engines."""
    for number, (batch, backend) in enumerate(
        itertools.islice(itertools.cycle(itertools.product(BATCHES, BACKENDS)), count)
    ):
        inputs = variant.task.examples(batch).numpy()
        options = {"backend": backend, "batch_size": batch}
        with contextlib.ExitStack() as stack:
            first, second = (
                stack.enter_context(wb.OptimizedInferenceEngine.from_variant(variant, **options)) for _ in range(2)
            )
            begun = time.perf_counter()
            found = wb.compare(
                first,
                Slowed(second, share) if share else second,
                inputs,
                budget_s=BUDGET_S,
                floor=floor,
                seed=seed + number,
            )
            yield Pair(backend, batch, share, found, time.perf_counter() - begun)


Turns = list[np.ndarray]
"""Milliseconds of the calls of one tool, turn by turn."""


@dataclasses.dataclass(frozen=True)
class Beside:
    """One engine timed by three tools in turns.

    This machine changes its pace for seconds at a time (a virtual core shares a real one with somebody else), so
    medians are set beside each other turn by turn, and what an interval may assume to be independent are the turns.
    ``long``: whether a call takes so long that LoadGen's own time is lost in it, and percentiles can be judged.
    """

    network: str
    long: bool
    backend: str
    ours: Turns
    loadgen: Turns
    by_torch: Turns

    def apart(self, theirs: Turns) -> tuple[float, float, float]:
        """Return how far a tool's median is from ours as a share: the median of all turns, and its 95 % interval."""
        shares = [np.median(their) / np.median(our) - 1 for our, their in zip(self.ours, theirs, strict=True)]
        return bootstrap_median(np.asarray(shares))

    @property
    def fine(self) -> bool:
        """Whether the three agree."""
        close = max(abs(self.apart(theirs)[0]) for theirs in (self.loadgen, self.by_torch)) <= CLOSE
        return close and (self.overlap or not self.long)

    @property
    def overlap(self) -> bool:
        """Whether the intervals of the 90th percentiles overlap."""
        (low, high), (their_low, their_high) = p90_interval(self.ours), p90_interval(self.loadgen)
        return low <= their_high and their_low <= high


def p90_interval(turns: Turns, *, draws: int = 500) -> tuple[float, float]:
    """Return the 95 % interval of the 90th percentile of all calls, over runs of turns drawn again.

    A pace lasts for some seconds, and a turn of the three tools for one: neighbours are not independent, runs of
    ``TOGETHER`` are drawn (moving blocks, Künsch 1989).
    """
    rng = np.random.default_rng(0)
    size = min(TOGETHER, len(turns))
    found = []
    for _ in range(draws):
        starts = rng.integers(len(turns) - size + 1, size=-(-len(turns) // size))
        found.append(np.quantile(np.concatenate([turns[s + i] for s in starts for i in range(size)]), 0.9))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def settled(latencies_ms: np.ndarray) -> np.ndarray:
    """Return what follows the first ``SWITCH_MS``, which the workbench throws away at each switch of arms too."""
    return latencies_ms[np.cumsum(latencies_ms) > SWITCH_MS]


def untrained() -> torch.nn.Module:
    """Return the transformer of ``digits_vit`` with wider layers; nothing is trained, since only its time counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DigitsViT(width=256, hidden=1024).eval()


def networks() -> Iterator[tuple[Variant, bool]]:
    """Yield the networks that the tools time, and whether their calls are long."""
    task = wb.tasks.digits_vit()
    yield Variant.original(task), False
    wide = wb.Task(
        name="digits_vit_wide",
        build=untrained,
        train=(task.train.inputs, task.train.targets),
        evaluation=(task.evaluation.inputs, task.evaluation.targets),
        metric=task.metric,
        loss=task.loss,
    )
    yield Variant.original(wide), True


def beside(variant: Variant, backend: str, *, long: bool, seconds: float = 0.25) -> Beside:
    """Time one engine by three tools in turns of random order, one sample a call.

    The engine leaves one core free where it can: LoadGen writes its log on a thread of its own, which would otherwise
    take turns with the engine's and lengthen every tenth call.
    """
    from torch.utils.benchmark import Timer

    inputs = variant.task.examples(1).numpy()
    threads = max(1, default_threads() - 1)
    found: dict[str, Turns] = {"ours": [], "loadgen": [], "by_torch": []}
    order = np.random.default_rng(0)
    with wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=1, threads=threads) as engine:
        arm = CallArm(backend, lambda: engine.predict(inputs))
        arm.warm()
        timer = Timer("predict(x)", globals={"predict": engine.predict, "x": inputs}, num_threads=engine.threads)

        def loadgen(turn: int) -> np.ndarray:
            load = wb.run_scenario(
                engine, inputs, scenario="single-stream", duration_s=seconds + SWITCH_MS / 1e3, seed=turn
            )
            return settled(np.asarray(load.latencies_ms))

        tools: dict[str, Callable[[int], np.ndarray]] = {
            "ours": lambda turn: np.concatenate(
                interleave([arm], rounds=(2, 100), budget_s=seconds, seed=turn).blocks[backend]
            ),
            "loadgen": loadgen,
            "by_torch": lambda _: 1e3 * np.asarray(timer.blocked_autorange(min_run_time=seconds).times),
        }
        for turn in range(TURNS[long]):
            for tool in order.permutation(list(tools)):
                found[tool].append(tools[tool](turn))
    return Beside(variant.task.name, long, backend, **found)


def different(found: list[Pair]) -> list[Pair]:
    """Return the pairs that were called different."""
    return [pair for pair in found if pair.found.verdict in ("faster", "slower")]


def pair_table(by_share: dict[float, list[Pair]]) -> str:
    """Return the counts of verdicts as a table in Markdown."""
    lines = [
        "| planted | backend | pairs | faster | slower | same | undecided | ratio: median (5th to 95th of 100) |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for share, found in by_share.items():
        for backend in (*BACKENDS, "all"):
            some = [pair for pair in found if backend in (pair.backend, "all")]
            counts = Counter(pair.found.verdict for pair in some)
            low, middle, high = np.quantile([pair.found.ratio for pair in some], (0.05, 0.5, 0.95))
            words = " | ".join(str(counts[word]) for word in ("faster", "slower", "same", "undecided"))
            planted = f"{share:.0%} slower" if share else "nothing (A-A)"
            lines.append(f"| {planted} | {backend} | {len(some)} | {words} | {middle:.3f} ({low:.3f} to {high:.3f}) |")
    return "\n".join(lines)


def beside_table(found: list[Beside]) -> str:
    """Return the medians of the three tools as a table in Markdown."""
    lines = [
        "| sample of | backend | workbench (ms) | LoadGen | torch.utils.benchmark | p90, workbench | p90, LoadGen |",
        "|---|---|---:|---|---|---|---|",
    ]
    for one in found:
        apart = ["{:+.1%} ({:+.1%} to {:+.1%})".format(*one.apart(theirs)) for theirs in (one.loadgen, one.by_torch)]
        p90 = ["{:.4g} to {:.4g}".format(*p90_interval(turns)) for turns in (one.ours, one.loadgen)]
        median = np.median(np.concatenate(one.ours))
        lines.append(f"| {one.network} | {one.backend} | {median:.4g} | {' | '.join((*apart, *p90))} |")
    return "\n".join(lines)


def page(
    floor: NoiseFloor, by_share: dict[float, list[Pair]], others: list[Beside], verdicts: list[str], seed: int
) -> str:
    """Return the whole result in Markdown."""
    longest = max(pair.seconds for found in by_share.values() for pair in found)
    versions = library_versions(("torch", "onnxruntime", "openvino", "mlcommons-loadgen", "numpy"))
    machine = f"{machine_words()}, {default_threads()} threads; "
    return "\n\n".join(
        (
            "Written by `python -m benchmarks.measurement`; not edited by hand.",
            f"Seed {seed}. {str(floor).capitalize()}. The longest comparison took {longest:.1f} s.",
            pair_table(by_share),
            beside_table(others),
            "\n".join(f"- {verdict}" for verdict in verdicts),
            machine + ", ".join(f"{name} {version}" for name, version in versions.items()),
        )
    )


def judged(by_share: dict[float, list[Pair]], others: list[Beside]) -> tuple[list[str], bool]:
    """Return what holds and what does not, in sentences, and whether all does."""
    same, slowed = by_share[0.0], by_share[PLANTED[0]]
    false = different(same)
    found = [pair for pair in slowed if pair.found.verdict == "slower"]
    late = [pair for pairs in by_share.values() for pair in pairs if pair.seconds > LIMIT_S]
    checks = [
        (
            len(false) <= MOST_FALSE * len(same),
            f"{len(false)} of {len(same)} A-A pairs were called different (at most {MOST_FALSE:.0%}).",
        ),
        (
            len(found) >= LEAST_FOUND * len(slowed),
            f"{len(found)} of {len(slowed)} planted slow-downs of {PLANTED[0]:.0%} were found "
            f"(at least {LEAST_FOUND:.0%}).",
        ),
        (not late, f"{len(late)} comparisons took more than {LIMIT_S:.0f} s."),
        (
            all(one.fine for one in others),
            f"{sum(one.fine for one in others)} of {len(others)} engines: medians of the three tools within "
            f"{CLOSE:.0%}, and 90th percentiles overlap where a call is long "
            f"({sum(one.overlap for one in others if one.long)} of {sum(one.long for one in others)}).",
        ),
    ]
    return [f"{'holds' if holds else 'DOES NOT HOLD'}: {words}" for holds, words in checks], all(h for h, _ in checks)


def main() -> int:
    """Measure, write, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, help="A-A pairs")
    parser.add_argument("--planted", type=int, default=100, help="pairs with a planted slow-down of 5 %%")
    parser.add_argument("--small", type=int, default=45, help="pairs with a planted slow-down of 2 %%")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    variant = Variant.original(wb.tasks.digits())
    print(f"seed {given.seed}", flush=True)
    floor = measure_noise(variant, keep=False)
    print(floor, flush=True)
    others = [beside(network, backend, long=long) for network, long in networks() for backend in BACKENDS]
    print(beside_table(others), flush=True)
    by_share: dict[float, list[Pair]] = {}
    for share, count in ((0.0, given.pairs), (PLANTED[0], given.planted), (PLANTED[1], given.small)):
        by_share[share] = []
        for pair in pairs(variant, count, share, floor.floor, given.seed):
            by_share[share].append(pair)
            print(
                f"{pair.backend} {pair.batch} planted {share:.0%}: {pair.found.ratio:.4f} {pair.found.verdict}",
                flush=True,
            )
    verdicts, holds = judged(by_share, others)
    text = page(floor, by_share, others, verdicts, given.seed)
    print(text)
    given.output.write_text(text + "\n", encoding="utf-8")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
