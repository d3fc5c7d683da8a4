"""The workbench's search as a user of a small residual network would start it."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import workbench as wb
from benchmarks.search_common import BATCH, ROOT, Candidate, Say, Setting
from workbench.core.machine import library_versions
from workbench.core.progress import Progress
from workbench.study.search.history import History, TrialRecord

TASK = f"{ROOT / 'benchmarks' / 'cifar.py'}:cifar10_held_out"
MARGIN = 0.005


def space(seed: int) -> wb.Space:
    """Return what a user of a small residual network would vary.

    Blocks removed or channels cut, with a short training; int8 or not; and the engine. Two to four epochs: one takes
    40 s on two cores, so that more do not fit into 20 minutes beside others, and weights begin as the float model's.
    """
    shallower = (
        wb.Recipe(
            wb.PruneDepth(blocks=blocks),
            wb.Distill(learning_rate=0.01, epochs=epochs),
            name=f"depth -{blocks}, {epochs:g} epochs",
        )
        for blocks in (1, 2, 3)
        for epochs in (2.0, 4.0)
    )
    narrower = wb.Recipe(wb.Prune(ratio=0.25), wb.Distill(epochs=4.0, learning_rate=0.02))
    return wb.Space(
        wb.choice(None, *shallower, narrower),
        wb.maybe(wb.Quantize()),
        backends=("onnxruntime", "openvino"),
        batch_sizes=BATCH,
        engine={"precision": wb.choice("float32", "auto")},
        seed=seed,
    )


def best_seen(history: History) -> TrialRecord | None:
    """Return the fastest point that held the goals on what the search saw; the evaluation split has no say here."""
    held = [one for one in history.trials if one.holds and one.values]
    return min(held, key=lambda one: one.values[0] if one.values else 0.0, default=None)


def run_workbench(setting: Setting, seed: int, folder: Path, notify: Say) -> Candidate:
    """Search with the workbench.

    The goal is a drop of 0.005, half of what is accepted: the search tries models that were trained and takes the
    fastest within its goal, and of 1,000 images a drop is known to about half a point. What other seeds trained is
    not taken over.
    """
    last = 0.0

    def progress(event: Progress) -> None:
        nonlocal last
        ended = "best" in event.values
        if ended or time.monotonic() - last > 30:
            last = time.monotonic()
            notify(f"workbench, seed {seed}: {event.message}")

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    begun = time.monotonic()
    with wb.Study(TASK, storage=f"sqlite:///{folder / 'study.db'}", name="search", prefix_cache=False) as study:
        result = study.search(
            space(seed),
            goals=wb.Goals(max_quality_drop=MARGIN),
            trials=10_000,
            budget_s=setting.seconds,
            seed=seed,
            threads=setting.threads,
            progress=progress,
        )
        seconds = time.monotonic() - begun
        chosen = best_seen(result.history)
        result.frame().to_json(folder / "tried.json", orient="records", indent=1)
        known = {
            "tried": len({one.trial_key for one in result.history.trials if one.trial_key}),
            "by_itself": "budget" not in result.ended,
            "versions": library_versions(("torch", "optuna")),
        }
        if chosen is None or chosen.trial_key is None:
            return Candidate.nothing("workbench", seed, seconds, setting.seconds, **known)
        study.export(folder / "model", trial=chosen.trial_key)
    options = json.loads((folder / "model" / "engine.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder / "study_files", ignore_errors=True)
    return Candidate(
        "workbench", seed, str(chosen.recipe), options, "model", seconds, setting.seconds,
        validation_drop=chosen.validation_drop, own_ms=chosen.values[0] if chosen.values else None, **known,
    )  # fmt: skip
