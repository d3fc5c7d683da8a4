"""Quality of an engine's outputs: the metric over the evaluation split, and the paired interval of its drop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError
from workbench.core.stats import bootstrap_drop
from workbench.study.execution.agreement import agreement
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.workers.protocol import examples_folder, load_arrays, save_arrays, split_folder
from workbench.tasks.axes import resize
from workbench.tasks.trees import batch_size, to_numpy, to_torch, tree_map

if TYPE_CHECKING:
    from workbench.tasks.task import Task

QUALITY = ("quality", "quality_drop", "quality_drop_low", "quality_drop_high", "agreement")
"""The columns of a row that depend on the outputs for the evaluation split."""
RESAMPLES = 200
_LEAST_RESAMPLES = 100
_LIMIT_S = 2.0


@dataclass(frozen=True)
class Quality:
    """Quality and its drop against the baseline in the metric's units, and the agreement with its answers.

    ``notes`` hold the reason of each None.
    """

    quality: float | None
    drop: float | None
    low: float | None
    high: float | None
    agreement: float | None
    notes: dict[str, str]

    def columns(self) -> dict[str, Any]:
        """Return the columns of the row."""
        return {
            "quality": self.quality,
            "quality_drop": self.drop,
            "quality_drop_low": self.low,
            "quality_drop_high": self.high,
            "agreement": self.agreement,
            "notes": self.notes,
        }


def write_inputs(task: Task, folder: Path, *, points: tuple[OperatingPoint, ...]) -> None:
    """Write the evaluation inputs and one example batch per point into ``folder``, if they are missing."""
    write_split(task, folder, "evaluation")
    for point in points:
        if not _written(examples_folder(folder, point)):
            examples = resize(task.examples(point.batch), task.open_dims, dict(point.shape))
            save_arrays(to_numpy(examples), examples_folder(folder, point))


def write_split(task: Task, folder: Path, split: str) -> None:
    """Write the inputs of a split into ``folder``, if they are missing."""
    if not _written(split_folder(folder, split)):
        save_arrays(to_numpy(task.split(split).inputs), split_folder(folder, split))


def _written(folder: Path) -> bool:
    return (folder / "tree.json").exists()  # written last


def judge(task: Task, outputs: Path, baseline: Path) -> Quality:
    """Score the outputs in a folder, paired with the baseline's on the same samples."""
    mine, base = (to_torch(load_arrays(folder, mmap=False)) for folder in (outputs, baseline))
    try:
        quality, reference = task.score(mine), task.score(base)
    except WorkbenchError as error:
        return _unknown(str(error))
    if not math.isfinite(quality):
        return _unknown(f"The metric is {quality} on the outputs of this engine.")
    drop = reference - quality
    if outputs == baseline:
        drop_note, agreement_note = "This is the baseline: its drop is 0 by definition.", "This is the baseline."
        notes = {"quality_drop_low": drop_note, "quality_drop_high": drop_note, "agreement": agreement_note}
        return Quality(quality, 0.0, 0.0, 0.0, 1.0, notes | _sign(task))
    share, note = agreement(mine, base, task.evaluation.targets)
    if not math.isfinite(drop):
        notes = dict.fromkeys(QUALITY[1:4], f"The metric of the baseline is {reference}.")
        return Quality(quality, None, None, None, share, {**notes, "agreement": note})
    interval = _interval(task, mine, base)
    if isinstance(interval, str):
        notes = {"quality_drop_low": interval, "quality_drop_high": interval, "agreement": note}
        return Quality(quality, drop, None, None, share, notes)
    return Quality(quality, drop, *interval, share, {"agreement": note} | _sign(task))


def _sign(task: Task) -> dict[str, str]:
    return {} if task.higher_is_better else {"quality": "The negative of the task's metric, which is minimized."}


def _interval(task: Task, mine: Any, base: Any) -> tuple[float, float] | str:
    import torch

    targets = task.evaluation.targets

    def score(indices: Any) -> tuple[float, float]:
        index = torch.from_numpy(indices)
        *outputs, labels = [tree_map(lambda leaf: leaf[index], tree) for tree in (base, mine, targets)]
        before, after = (float(task.metric(output, labels)) for output in outputs)
        if not (math.isfinite(before) and math.isfinite(after)):
            raise ValueError("the metric is not finite on a resample")
        return before, after

    n = batch_size(mine)
    try:
        started = time.perf_counter()
        score(torch.arange(n).numpy())
        each = time.perf_counter() - started
        resamples = min(RESAMPLES, int(_LIMIT_S / max(each, 1e-9)))
        if resamples < _LEAST_RESAMPLES:
            return f"One metric call takes {each:.2g} s: too slow to resample {RESAMPLES} times within {_LIMIT_S:g} s."
        return bootstrap_drop(score, n, resamples=resamples)
    except Exception as error:  # noqa: BLE001 - the metric is the user's code and may refuse a resample
        return f"The metric cannot be resampled: {type(error).__name__}: {error}"


def _unknown(reason: str) -> Quality:
    return Quality(None, None, None, None, None, dict.fromkeys(QUALITY, reason))
