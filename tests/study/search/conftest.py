"""A runner that knows the answer of every point by a formula, so that what a search does can be checked by hand."""

from __future__ import annotations

import json

import pytest

from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import planned
from workbench.study.results.schema import new_row
from workbench.study.search.executor import search_plan
from workbench.study.search.goals import Goals, Objective
from workbench.study.search.loop import SearchLoop
from workbench.study.search.sampler import OptunaSampler
from workbench.study.storage.database import new_owner

TASK = "f" * 12


def figures(row):
    """Return latency in ms and drop of a row: pruning makes it faster and worse, int8 faster at little cost."""
    recipe = json.loads(row["recipe_json"])["steps"]
    ratio = next((s["ratio"] for s in recipe if s["step"] == "Prune"), 0.0)
    int8 = any(s["step"] == "Quantize" for s in recipe)
    latency = (2 + row["batch_size"]) * (1.0 - 0.7 * ratio) * (0.6 if int8 else 1.0)
    latency *= {"torch-eager": 1.0, "onnxruntime": 0.5, "openvino": 0.4}[row["backend"]]
    return latency / row["threads"] ** 0.5, 0.04 * ratio**2 + (0.002 if int8 else 0.0)


class Formula:
    """Stands in for :class:`SearchRun`: ``done`` counts what it was asked to carry out."""

    def __init__(self, sizes=(8,), *, broken=lambda trial: False, pruned=lambda drop: False):
        self.plan = search_plan(TASK, sizes, threads=1, shape=())
        self.rows, self.done, self.broken, self.pruned = {}, [], broken, pruned

    def trial(self, proposal):
        threads = proposal.threads or 1
        point = OperatingPoint(proposal.batch_size)
        return planned(TASK, proposal.recipe, proposal.backend, point, threads, proposal.options)

    def baseline(self, trial):
        return self._row(self.plan.baseline(trial.point))

    def fits(self, trial):
        return True

    def do(self, trial):
        if trial.key in self.rows:
            return self.rows[trial.key], False
        self.done.append(trial)
        self.rows[trial.key] = self._row(trial)
        return self.rows[trial.key], True

    def _row(self, trial):
        known = new_row(
            recipe=trial.name, recipe_json=trial.recipe.to_json(), technique=trial.recipe.technique,
            backend=trial.backend, batch_size=trial.batch_size, threads=trial.threads, trial_key=trial.key,
            fingerprint="here", baseline=trial.baseline, recipe_id=trial.recipe.recipe_id,
        )  # fmt: skip
        latency, drop = figures(known)
        if self.broken(trial):
            return {**known, "state": "failed", "error": "It broke."}
        if self.pruned(drop):
            return {**known, "state": "pruned", "error": "Hopeless.", "validation_drop": drop}
        base = 2.0 + trial.batch_size
        figures_of = {"latency_ms_p50": latency, "throughput_per_s": 1e3 * trial.batch_size / latency}
        figures_of |= {"speedup": base / latency, "speedup_low": base / latency, "verdict": "faster"}
        figures_of |= {"quality": 0.9 - drop, "quality_drop": drop, "validation_drop": drop}
        return {**known, **figures_of, "state": "complete", "size_mib": 1.0, "peak_rss_mib": 50.0}


@pytest.fixture
def formula():
    """Return the class of the stand-in."""
    return Formula


@pytest.fixture
def search_run(tmp_path):
    """Return a function that searches with the stand-in: (why it ended, runner, what was tried, question)."""
    url = f"sqlite:///{tmp_path}/s.db"

    def search(
        space, *, sampler="tpe", goals=None, figures=("latency_ms_p50",), trials=20, seed=0, runner=None, **more
    ):
        asked = Objective(goals or Goals(), figures, space.batch_sizes)
        runner = runner or Formula(space.batch_sizes)
        proposer = OptunaSampler(url, "a search", space, asked, sampler=sampler, seed=seed, owner=new_owner())
        try:
            proposer.enqueue_first(more.get("start", ()))
            proposer.requeue_abandoned(lambda key: False)
            events = more.get("events", [])
            loop = SearchLoop(
                space,
                asked,
                proposer,
                runner,
                trials=trials,
                best=lambda: None,
                follow=more.get("follow", False),
                progress=more.get("progress", events.append),
            )
            words = loop.run()
            return words, runner, proposer.records(), asked
        finally:
            proposer.close()

    search.url = url
    return search
