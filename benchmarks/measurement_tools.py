"""Figures of the workbench beside those of MLPerf LoadGen and torch.utils.benchmark, on one engine, in turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import workbench as wb
from workbench.compress.variant import Variant
from workbench.core.machine import default_threads
from workbench.core.stats import bootstrap_median
from workbench.tasks.models import DigitsViT
from workbench.timing.interleave import CallArm, interleave

CLOSE = 0.05
"""Share up to which medians of two tools may be apart."""
SWITCH_MS = 50.0
TURNS = {False: 20, True: 60}
"""Of networks whose calls are short, and long."""
TOGETHER = 5
"""Turns that one pace of the machine may last."""


def steady(backend: str) -> dict[str, Any]:
    """Return the option of torch's backends that keeps freed activations in the process, as studies do."""
    return {"allocator": "steady"} if backend.startswith("torch") else {}


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

    A pace lasts for some seconds, and a turn of the three tools for one: neighbors are not independent, runs of
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
    with wb.OptimizedInferenceEngine.from_variant(
        variant, backend=backend, batch_size=1, threads=threads, **steady(backend)
    ) as engine:
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
