"""Whether the workbench's verdicts can be trusted on this machine, and whether its figures agree with other tools'.

    python -m benchmarks.measurement [--pairs 200] [--planted 100] [--small 50] [--loaded 60] [--seed 0] [--output FILE]

- A/A: two engines of one model, loaded separately, compared by ``wb.compare`` within 5 seconds. At most 5 % of the
  pairs may be called different.
- Planted: the same, but every call of the second engine spins for 5 % (and once more, 2 %) of its own time on top. At
  least 99 % of the planted 5 % and 90 % of the 2 % must be found.
- Beside other tools, in turns of a quarter of a second on one engine: the median of the workbench within 5 % of that
  of MLPerf LoadGen's SingleStream log and of torch.utils.benchmark, turn by turn, and the intervals of the 90th
  percentiles of LoadGen and the workbench overlap. LoadGen counts what its binding takes to hand a query over and
  back, about 10 us here: 1.4 % of a call of ``digits_vit``, more than the width of the intervals. The percentiles are
  therefore judged on that network with wider layers, whose calls take milliseconds, and shown of both.

- Beside planted load (nothing; one core busy half of the time; both cores in bursts; a neighbor that trains on all
  cores): pairs of true ratio 1, 1.05, 1.5 and 4, on one and on all threads. No wrong sign in 95 % of verdicts, 90 % of
  the pairs of 1.5 and more decided, the true ratio inside 90 % of the intervals, at most 5 % of equal pairs different.

Backends (torch eager, ONNX Runtime, OpenVINO) and batch sizes (1, 8, 32) take turns over the embedded task ``digits``.
torch runs with the steady allocator. The noise floor is measured first, as ``workbench noise`` does. Nothing is run
again. Takes about 30 minutes for the pairs and an hour for the loads; ``--only pairs`` or ``--only loads`` makes one of
the two pages.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import workbench as wb
from benchmarks.measurement_loads import BUDGET_S as BUDGET_S_LOADED, LOADS, loaded_pairs, loads_judged, loads_table
from benchmarks.measurement_tools import CLOSE, Beside, beside, beside_table, networks, steady
from workbench.compress.variant import Variant
from workbench.core.machine import default_threads, describe_machine, library_versions
from workbench.measure.comparison.noise import NoiseFloor, measure_noise

BACKENDS = ("torch-eager", "onnxruntime", "openvino")
BATCHES = (1, 8, 32)
LIMIT_S = 5.0
BUDGET_S = 4.5
"""For ``wb.compare``, whose last block may end later."""
MOST_FALSE = 0.05
LEAST_FOUND = {0.05: 0.99, 0.02: 0.90}
"""Of the planted slow-downs by their share."""
RESULTS = Path(__file__).parent / "results"
OUTPUTS = {"pairs": "measurement.md", "loads": "measurement_loads.md"}


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
        options = {"backend": backend, "batch_size": batch, **steady(backend)}
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
            planted = f"{share:.0%} slower" if share else "nothing (A/A)"
            lines.append(f"| {planted} | {backend} | {len(some)} | {words} | {middle:.3f} ({low:.3f} to {high:.3f}) |")
    return "\n".join(lines)


def page(
    floor: NoiseFloor, by_share: dict[float, list[Pair]], others: list[Beside], verdicts: list[str], seed: int
) -> str:
    """Return the whole result in Markdown."""
    longest = max(pair.seconds for found in by_share.values() for pair in found)
    return "\n\n".join(
        (
            "Written by `python -m benchmarks.measurement --only pairs`; not edited by hand.",
            f"Seed {seed}. {floor}. The longest comparison took {longest:.1f} s.",
            pair_table(by_share),
            beside_table(others),
            "\n".join(f"- {verdict}" for verdict in verdicts),
            machine(),
        )
    )


def machine() -> str:
    """Return the machine and the versions of what was measured."""
    versions = library_versions(("torch", "onnxruntime", "openvino", "mlcommons-loadgen", "numpy"))
    words = f"{describe_machine()}, {default_threads()} threads; "
    return words + ", ".join(f"{name} {version}" for name, version in versions.items())


def judged(by_share: dict[float, list[Pair]], others: list[Beside]) -> tuple[list[str], bool]:
    """Return what holds and what does not, in sentences, and whether all does."""
    same = by_share[0.0]
    false = different(same)
    slowed = [(share, by_share[share], least) for share, least in LEAST_FOUND.items()]
    late = [pair for pairs in by_share.values() for pair in pairs if pair.seconds > LIMIT_S]
    checks = [
        (
            len(false) <= MOST_FALSE * len(same),
            f"{len(false)} of {len(same)} A/A pairs were called different (at most {MOST_FALSE:.0%}).",
        ),
        *(
            (
                (found := sum(pair.found.verdict == "slower" for pair in some)) >= least * len(some),
                f"{found} of {len(some)} planted slow-downs of {share:.0%} were found (at least {least:.0%}).",
            )
            for share, some, least in slowed
        ),
        (not late, f"{len(late)} comparisons took more than {LIMIT_S:.0f} s."),
        (
            all(one.fine for one in others),
            f"{sum(one.fine for one in others)} of {len(others)} engines: medians of the three tools within "
            f"{CLOSE:.0%}, and 90th percentiles overlap where a call is long "
            f"({sum(one.overlap for one in others if one.long)} of {sum(one.long for one in others)}).",
        ),
    ]
    return sentences(checks)


def sentences(checks: Sequence[tuple[bool, str]]) -> tuple[list[str], bool]:
    """Return what holds and what does not, in sentences, and whether all does."""
    return [f"{'holds' if holds else 'DOES NOT HOLD'}: {words}" for holds, words in checks], all(h for h, _ in checks)


def measure_pairs(given: argparse.Namespace, variant: Variant, floor: NoiseFloor) -> tuple[str, bool]:
    """Return the page on pairs and other tools, and whether all holds."""
    others = [beside(network, backend, long=long) for network, long in networks() for backend in BACKENDS]
    print(beside_table(others), flush=True)
    by_share: dict[float, list[Pair]] = {}
    for share, count in ((0.0, given.pairs), (0.05, given.planted), (0.02, given.small)):
        by_share[share] = []
        for pair in pairs(variant, count, share, floor.floor, given.seed):
            by_share[share].append(pair)
            print(
                f"{pair.backend} {pair.batch} planted {share:.0%}: {pair.found.ratio:.4f} {pair.found.verdict}",
                flush=True,
            )
    verdicts, holds = judged(by_share, others)
    return page(floor, by_share, others, verdicts, given.seed), holds


def measure_loads(given: argparse.Namespace, floor: NoiseFloor) -> tuple[str, bool]:
    """Return the page on planted load, and whether all holds."""
    found = []
    for load in LOADS:
        for pair in loaded_pairs(load, given.loaded, floor.floor, given.seed):
            found.append(pair)
            one = pair.found
            print(
                f"{load} {pair.backend} {pair.threads} threads, true {pair.ratio:.2f}: {one.ratio:.3f} "
                f"({one.low:.3f} to {one.high:.3f}) {one.verdict}, {one.estimator}",
                flush=True,
            )
    verdicts, holds = sentences(loads_judged(found))
    text = "\n\n".join(
        (
            "Written by `python -m benchmarks.measurement --only loads`; not edited by hand.",
            f"Seed {given.seed}. {floor}. A call of the slower arm runs the network n times where "
            "one of the faster runs it m times, so the true ratio is n to m under any load. Each pair has "
            f"{BUDGET_S_LOADED:g} s.",
            loads_table(found),
            "\n".join(f"- {verdict}" for verdict in verdicts),
            machine(),
        )
    )
    return text, holds


def main() -> int:
    """Measure, write, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, help="A/A pairs")
    parser.add_argument("--planted", type=int, default=100, help="pairs with a planted slow-down of 5 %%")
    parser.add_argument("--small", type=int, default=50, help="pairs with a planted slow-down of 2 %%")
    parser.add_argument("--loaded", type=int, default=60, help="pairs of each true ratio beside each planted load")
    parser.add_argument("--only", choices=tuple(OUTPUTS), help="make one of the two pages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the pages")
    given = parser.parse_args()
    variant = Variant.original(wb.tasks.digits())
    print(f"seed {given.seed}", flush=True)
    floor = measure_noise(variant, keep=False)
    print(floor, flush=True)
    failed = False
    for part, name in OUTPUTS.items():
        if given.only in (None, part):
            text, holds = measure_pairs(given, variant, floor) if part == "pairs" else measure_loads(given, floor)
            print(text)
            (given.output / name).write_text(text + "\n", encoding="utf-8")
            failed |= not holds
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
