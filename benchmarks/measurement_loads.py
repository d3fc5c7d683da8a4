"""Verdicts beside planted load: pairs of engines of one model whose true ratio is known by construction.

A call of the slower arm runs the network ``n`` times where one of the faster runs it ``m`` times: their undisturbed
times are n to m whatever the machine does. Each pair is judged by ``wb.compare``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import workbench as wb
from benchmarks.loads import KINDS, planted
from workbench.compress.variant import Variant
from workbench.core.machine import default_threads

LOADS = ("none", "half", "bursts", "openmp")
RATIOS = {1.0: (2, 2), 1.05: (21, 20), 1.5: (3, 2), 4.0: (4, 1)}
BATCHES = {"torch-eager": 4, "onnxruntime": 8, "openvino": 8}
SMALL_STEP = 1.05
"""The ratio whose calls are of one sample, since a call runs the network 20 times."""
BUDGET_S = 3.0
RIGHT, DECIDED, HELD, FALSE = 0.95, 0.90, 0.90, 0.05


class Repeated:
    """An engine whose call runs the network several times."""

    def __init__(self, engine: Any, times: int) -> None:
        self._engine, self._times = engine, times
        self.backend, self.threads = f"{engine.backend} x{times}", engine.threads

    def predict(self, inputs: Any) -> Any:
        """Run ``times`` times and return the last result."""
        for _ in range(self._times - 1):
            self._engine.predict(inputs)
        return self._engine.predict(inputs)


@dataclasses.dataclass(frozen=True)
class LoadedPair:
    """One comparison beside a load; ``ratio`` is the true one."""

    load: str
    ratio: float
    backend: str
    threads: int
    found: wb.measure.Comparison

    @property
    def decided(self) -> bool:
        """Whether the verdict says faster or slower."""
        return self.found.verdict in ("faster", "slower")

    @property
    def right(self) -> bool:
        """Whether the verdict has no wrong sign: a pair that differs must not be called slower, nor equal ones."""
        return not self.decided if self.ratio == 1.0 else self.found.verdict != "slower"

    @property
    def held(self) -> bool:
        """Whether the interval holds the true ratio."""
        return self.found.low <= self.ratio <= self.found.high


def loaded_pairs(load: str, count: int, floor: float, seed: int) -> Iterator[LoadedPair]:
    """Yield ``count`` pairs of every ratio; backends take turns, on one and on all threads."""
    variant = Variant.original(wb.tasks.digits())
    kinds = itertools.cycle(itertools.product(BATCHES, dict.fromkeys((1, default_threads()))))
    with planted(load):
        for number, (backend, threads) in enumerate(itertools.islice(kinds, count)):
            with contextlib.ExitStack() as stack:
                options: dict[str, Any] = {"backend": backend, "batch_size": BATCHES[backend], "threads": threads}
                if backend.startswith("torch"):
                    options["allocator"] = "steady"
                first, second = (
                    stack.enter_context(wb.OptimizedInferenceEngine.from_variant(variant, **options)) for _ in range(2)
                )
                for ratio, (slower, faster) in RATIOS.items():
                    batch = 1 if ratio == SMALL_STEP else BATCHES[backend]
                    found = wb.compare(
                        Repeated(first, slower),
                        Repeated(second, faster),
                        variant.task.examples(batch).numpy(),
                        budget_s=BUDGET_S,
                        floor=floor,
                        seed=seed + number,
                    )
                    yield LoadedPair(load, ratio, backend, threads, found)


def loads_table(pairs: Sequence[LoadedPair]) -> str:
    """Return counts by load and ratio as a table in Markdown."""
    lines = [
        "| load | true ratio | pairs | faster | slower | same or undecided | true ratio inside | median ratio "
        "(5th to 95th of 100) | by undisturbed calls |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    for load, ratio in itertools.product(dict.fromkeys(pair.load for pair in pairs), RATIOS):
        some = [pair for pair in pairs if (pair.load, pair.ratio) == (load, ratio)]
        faster, slower = (sum(pair.found.verdict == word for pair in some) for word in ("faster", "slower"))
        low, middle, high = np.quantile([pair.found.ratio for pair in some], (0.05, 0.5, 0.95))
        free = sum(pair.found.estimator.startswith("median") for pair in some)
        lines.append(
            f"| {KINDS[load]} | {ratio:.2f} | {len(some)} | {faster} | {slower} | {len(some) - faster - slower} | "
            f"{sum(pair.held for pair in some)} | {middle:.3f} ({low:.3f} to {high:.3f}) | {free} |"
        )
    return "\n".join(lines)


def loads_judged(pairs: Sequence[LoadedPair]) -> list[tuple[bool, str]]:
    """Return what holds for each load, with a sentence."""
    checks = []
    for load in dict.fromkeys(pair.load for pair in pairs):
        some = [pair for pair in pairs if pair.load == load]
        apart, large = [p for p in some if p.ratio > 1], [p for p in some if p.ratio >= 1.5]
        same = [p for p in some if p.ratio == 1.0]
        right, decided = sum(p.right for p in apart), sum(p.decided for p in large)
        held, false = sum(p.held for p in some), sum(p.decided for p in same)
        checks.append(
            (
                right >= RIGHT * len(apart)
                and decided >= DECIDED * len(large)
                and held >= HELD * len(some)
                and false <= FALSE * len(same),
                f"{KINDS[load]}: no wrong sign in {right} of {len(apart)} verdicts (at least {RIGHT:.0%}), {decided} "
                f"of {len(large)} pairs of ratio 1.5 and 4 decided (at least {DECIDED:.0%}), the true ratio inside "
                f"{held} of {len(some)} intervals (at least {HELD:.0%}), {false} of {len(same)} equal pairs called "
                f"different (at most {FALSE:.0%}).",
            )
        )
    return checks
