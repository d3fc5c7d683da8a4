"""The search benchmark's last step: all chosen points on the workbench's engines in one run, on images new to all."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import workbench as wb
from benchmarks.search_common import BATCH, LIMIT, Candidate, Say
from workbench.core.errors import WorkbenchError
from workbench.core.stats import bootstrap_drop, ratio_interval
from workbench.tasks import Task
from workbench.timing.interleave import CallArm, interleave

BASELINE = "float"
BATCHES = (BATCH, 1)
_ROUNDS = (10, 10)


@dataclasses.dataclass
class Judged:
    """A candidate with what was measured: ``ms`` by batch size, and the blocks at the first of them.

    ``problem`` says why there is nothing measured.
    """

    candidate: Candidate
    quality: float | None = None
    drop: float | None = None
    low: float | None = None
    high: float | None = None
    ms: dict[int, float] = dataclasses.field(default_factory=dict)
    speedup: tuple[float, float, float] | None = None
    blocks: list[np.ndarray] = dataclasses.field(default_factory=list)
    problem: str = ""

    @property
    def name(self) -> str:
        """Tool and seed."""
        return f"{self.candidate.tool}, seed {self.candidate.seed}"

    @property
    def within(self) -> bool:
        """Whether it was measured and loses no more than is accepted."""
        return not self.problem and self.drop is not None and self.drop <= LIMIT + 1e-9

    @property
    def rank(self) -> tuple[bool, float]:
        """What seeds of one tool are put in order by: those within the limit first, then the fastest."""
        return not self.within, self.ms.get(BATCH, float("inf"))


@dataclasses.dataclass(frozen=True)
class Duel:
    """One of ours beside a peer: ``ratio`` of our time over the peer's with its interval, None where one has none."""

    mine: Judged
    peer: Judged
    floor: float
    ratio: tuple[float, float, float] | None

    @property
    def as_good(self) -> bool:
        """Whether ours is at least as good: within the limit, and not slower by more than noise."""
        if not self.mine.within:
            return False
        if not self.peer.within:
            return True
        return self.ratio is not None and self.ratio[0] <= 1 + self.floor

    @property
    def words(self) -> str:
        """What a reader is told."""
        verdict = "at least as good" if self.as_good else "NOT as good"
        pair = f"{self.mine.name} against {self.peer.name}: {verdict}"
        for one in (self.mine, self.peer):
            if not one.within:
                loss = one.problem or f"loses {100 * (one.drop or 0.0):.2f} points, more than {100 * LIMIT:g}"
                return f"{pair}; {one.name}: {loss}"
        middle, low, high = self.ratio or (float("nan"),) * 3
        return f"{pair}: {middle:.3f} of its time ({low:.3f} to {high:.3f}, noise {100 * self.floor:.1f} %)"


def duel(mine: Judged, peer: Judged, floor: float) -> Duel:
    """Return ours beside a peer."""
    both = mine.blocks and peer.blocks
    return Duel(mine, peer, floor, ratio_interval(mine.blocks, peer.blocks) if both else None)


def median_of(rows: Sequence[Judged], tool: str) -> Judged | None:
    """Return a tool's median seed; of an even number the worse of the middle two, for every tool alike."""
    own = sorted((row for row in rows if row.candidate.tool == tool), key=lambda row: row.rank)
    return own[len(own) // 2] if own else None


def engine(row: Judged, folder: Path, batch: int, threads: int) -> wb.OptimizedInferenceEngine:
    """Return the engine of a candidate's own backend and precision, not initialised yet."""
    options = {**row.candidate.options, "batch_size": batch, "threads": threads}
    config = wb.InferenceConfig(model_path=str(folder / str(row.candidate.model)), **options)
    return wb.OptimizedInferenceEngine(config)


def judge(
    task: Task, places: Sequence[tuple[Candidate, Path]], *, threads: int, loads: int, notify: Say
) -> tuple[list[Judged], Judged]:
    """Return the candidates as measured here, and the float model in torch eager, which is the baseline."""
    rows = [Judged(candidate) for candidate, _ in places]
    folders = dict(zip(map(id, rows), (folder for _, folder in places), strict=True))
    base_options = {"backend": "torch-eager", "allocator": "steady"}
    base = Judged(Candidate(BASELINE, 0, "float model", base_options, None, 0.0, 0.0, 0, True))
    original = wb.Variant.original(task)

    def openers(batch: int) -> dict[str, Callable[[], Any]]:
        options = {**base_options, "batch_size": batch, "threads": threads}
        found = {base.name: functools.partial(wb.OptimizedInferenceEngine.from_variant, original, **options)}
        for row in rows:
            if row.candidate.model is not None and not row.problem:
                opened = functools.partial(engine, row, folders[id(row)], batch, threads)
                found[row.name] = lambda opened=opened: opened().initialize()
        return found

    labels = task.evaluation.targets.numpy()
    right: np.ndarray | None = None
    for row in (base, *rows):
        if row is not base and row.candidate.model is None:
            row.problem = row.candidate.words
            continue
        try:
            with openers(BATCH)[row.name]() as loaded:
                mine = _answers(loaded, task) == labels
        except WorkbenchError as error:
            row.problem = f"the engine cannot run it: {error}"
            continue
        right = mine if right is None else right
        scores = functools.partial(_scores, right, mine)
        row.quality, row.drop = float(mine.mean()), float(right.mean() - mine.mean())
        row.low, row.high = bootstrap_drop(scores, len(labels), resamples=2000)
        notify(f"{row.name}: accuracy {row.quality:.4f}, drop {row.drop:.4f}")
    measured = [base, *(row for row in rows if not row.problem)]
    for batch in BATCHES:
        _time(measured, openers, task, batch, loads, notify)
    return rows, base


def _answers(loaded: Any, task: Task) -> np.ndarray:
    found = [np.asarray(loaded.predict(x.numpy()).result).argmax(1) for x, _ in task.evaluation.batches(BATCH)]
    return np.concatenate(found)


def _scores(base: np.ndarray, mine: np.ndarray, index: Any) -> tuple[float, float]:
    return float(base[index].mean()), float(mine[index].mean())


def _time(
    rows: Sequence[Judged],
    openers: Callable[[int], dict[str, Callable[[], Any]]],
    task: Task,
    batch: int,
    loads: int,
    notify: Say,
) -> None:
    """Load all anew ``loads`` times, time them by turns, and take the blocks of all loads together.

    Two sessions of one model differ by 1 to 3 % for as long as they live.
    """
    images = np.ascontiguousarray(task.evaluation.inputs[:batch].numpy())
    blocks: dict[str, list[np.ndarray]] = {row.name: [] for row in rows}
    for load in range(loads):
        notify(f"timing {len(rows)} models at batch {batch}, load {load + 1} of {loads}")
        with contextlib.ExitStack() as stack:
            arms = []
            for row in rows:
                loaded = stack.enter_context(openers(batch)[row.name]())
                arms.append(CallArm(row.name, functools.partial(loaded.predict, images)))
            for arm in arms:
                arm.warm()
            for name, found in interleave(arms, rounds=_ROUNDS, seed=load).blocks.items():
                blocks[name] += found
    for row in rows:
        found = blocks[row.name]
        row.ms[batch] = float(np.median([np.median(block) for block in found]))
        if batch == BATCH:
            row.blocks, row.speedup = found, ratio_interval(blocks[rows[0].name], found)


def table(rows: Sequence[Judged], base: Judged) -> str:
    """Return all candidates as a table in Markdown, tool by tool."""
    lines = [
        "| tool | seed | chosen | backend | drop in points (95 %) | batch 32 (ms) | speedup (95 %) | batch 1 (ms) "
        "| seconds | tried | ended |",
        "|---|---:|---|---|---|---:|---|---:|---:|---:|---|",
    ]
    for row in (base, *sorted(rows, key=lambda row: (row.candidate.tool, row.candidate.seed))):
        one = row.candidate
        ended = "" if row is base else "by itself" if one.by_itself else f"by the limit of {one.limit_s:.0f} s"
        spent = f"{one.seconds:.0f} | {one.tried} | {ended}" if row is not base else " | | "
        head = f"| {one.tool} | {one.seed if row is not base else ''} | {one.words}"
        if row.problem:
            lines.append(f"{head} | | {row.problem if row.problem != one.words else ''} | | | | {spent} |")
            continue
        where = " ".join(str(one.options[key]) for key in ("backend", "precision") if key in one.options)
        ratio, low, high = row.speedup or (float("nan"),) * 3
        lines.append(
            f"{head} | {where} | {_points(row)} | {row.ms[BATCH]:.3f} | {ratio:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row.ms[1]:.3f} | {spent} |"
        )
    return "\n".join(lines)


def _points(row: Judged) -> str:
    known = [100 * value for value in (row.drop, row.low, row.high) if value is not None]
    return "{:.2f} ({:.2f} to {:.2f})".format(*known)
