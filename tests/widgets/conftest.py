"""A study that needs no process, no model and almost no time, with the names and events of the real one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Prune, Quantize
from workbench.core.progress import Progress, ignore_progress
from workbench.study.execution.job import Job, RunSummary
from workbench.study.results.ranking import Recommendation, best_row, mark_recommended
from workbench.study.results.relative_latency import with_relative_latency
from workbench.study.results.schema import TrialRow, new_row, update_row


@pytest.fixture
def fakes() -> ModuleType:
    """Return this module: ``fakes.FakeStudy``, ``fakes.RECIPES``, ``fakes.waiting``, ``fakes.finished``."""
    return sys.modules[__name__]


RECIPES = [
    Recipe(name="float"),
    Recipe(Prune(ratio=0.5), Distill(epochs=1.0), name="distill"),
    Recipe(Prune(ratio=0.5), Distill(epochs=1.0), Quantize(), name="chain"),
]
SPEED = {"float": 1.0, "distill": 2.5, "chain": 4.2}
QUALITY = {"float": 0.95, "distill": 0.947, "chain": 0.944}
ENGINE_SPEED = {"torch-eager": 1.0, "onnxruntime": 1.6, "openvino": 1.9}


class FakeStudy:
    """Trials that finish when ``gate`` lets them: one release of the semaphore a trial."""

    def __init__(self, *, gated: bool = False, fails: Exception | None = None, broken: str | None = None) -> None:
        self.gate = threading.Semaphore(0) if gated else None
        self.fails = fails
        self.broken = broken
        self.calls: list[dict[str, Any]] = []
        self.ran: list[tuple[str, str, int]] = []
        self._rows: dict[tuple[str, str, int], TrialRow] = {}
        self._limit = 0.01
        self.cut: tuple[str, ...] = ()
        self.closed = False

    def start(
        self, recipes: Sequence[Recipe] | None, backends: Sequence[str], batch_sizes: Sequence[int], **options: Any
    ):
        self.calls.append({"recipes": recipes, "backends": backends, "batch_sizes": batch_sizes, **options})
        self._limit = options["quality_drop"]
        plan = [(r, b, n) for r in recipes or RECIPES for b in backends for n in batch_sizes]
        stop = threading.Event()
        return Job(lambda: self._run(plan, stop, options.get("progress", ignore_progress)), stop.set)

    def _run(self, plan: list[tuple[Recipe, str, int]], stop: threading.Event, progress: Any) -> RunSummary:
        if self.fails is not None:
            raise self.fails
        for recipe, backend, batch in plan:
            self._rows.setdefault((recipe.recipe_id, backend, batch), waiting(recipe, backend, batch))
        progress(Progress("study", 0, len(plan), "Plan made.", {"plan": []}))
        for index, (recipe, backend, batch) in enumerate(plan):
            key = (recipe.recipe_id, backend, batch)
            if self._rows[key]["state"] == "complete":
                continue
            self._rows[key] = update_row(self._rows[key], state="running")
            message = f"Timing {recipe.name} on {backend}, batch {batch}."
            progress(Progress("study", index, len(plan), message, {"row": self._rows[key]}))
            while self.gate is not None and not self.gate.acquire(timeout=0.02):
                if stop.is_set():
                    self._rows[key] = update_row(self._rows[key], state="cancelled")
                    return RunSummary(index, 0, 0, len(plan) - index, cancelled=True, seconds=0.1)
            self.ran.append((recipe.label, backend, batch))
            self._rows[key] = self._outcome(recipe, backend, batch)
            progress(Progress("study", index + 1, len(plan), message, {"row": self._rows[key]}))
        return RunSummary(len(plan), 0, 0, len(self.cut), cancelled=False, seconds=0.1, cut=self.cut)

    def _outcome(self, recipe: Recipe, backend: str, batch: int) -> TrialRow:
        row = waiting(recipe, backend, batch)
        if self.broken == backend:
            return update_row(row, state="failed", error=f"{backend} could not load <the> model.\nmore")
        return finished(row)

    def rows(self) -> list[TrialRow]:
        rows: Any = with_relative_latency(list(self._rows.values()))
        return mark_recommended(rows, best_row(rows, quality_drop=self._limit))

    def best(self, quality_drop: float | None = None, minimize: str = "latency_ms_p50", **_: Any) -> Recommendation:
        return best_row(self.rows(), quality_drop=self._limit if quality_drop is None else quality_drop)

    def close(self) -> None:
        self.closed = True


def waiting(recipe: Recipe, backend: str, batch: int) -> TrialRow:
    """Return a row that has not run."""
    return new_row(
        task="tiny",
        recipe=recipe.name or recipe.label,
        recipe_id=recipe.recipe_id,
        recipe_json=recipe.to_json(),
        technique=recipe.technique,
        backend=backend,
        batch_size=batch,
        threads=2,
        trial_key=f"{recipe.recipe_id}/{backend}/{batch}",
        fingerprint="here",
        baseline=not recipe.steps and backend == "torch-eager",
    )


def finished(row: TrialRow) -> TrialRow:
    """Return the row with figures that follow from its recipe, engine and batch size."""
    speed = SPEED.get(row["recipe"], 1.5) * ENGINE_SPEED[row["backend"]]
    latency = (1.0 + 0.9 * row["batch_size"]) / speed
    quality = QUALITY.get(row["recipe"], 0.93)
    return update_row(
        row,
        state="complete",
        quality=quality,
        quality_drop=0.95 - quality,
        quality_drop_low=0.94 - quality,
        quality_drop_high=0.955 - quality,
        latency_ms_p50=latency,
        latency_ms_iqr=latency * 0.05,
        latency_ms_low=latency * 0.98,
        latency_ms_high=latency * 1.02,
        throughput_per_s=1000 * row["batch_size"] / latency,
        speedup=speed,
        speedup_low=speed * 0.95,
        speedup_high=speed * 1.06,
        verdict="same" if row["baseline"] else "faster",
        peak_rss_mib=210.0,
        size_mib=1.3,
        params=300_000,
        macs=20_000_000,
        max_abs_diff=1e-6,
        load_ms=200.0,
        prepare_s=1.0,
        candidates=9,
    )
