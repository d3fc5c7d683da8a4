"""Quality of an engine's outputs on the evaluation split: metric, paired interval of its drop, and agreement."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError
from workbench.core.stats import bootstrap_drop
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.workers.protocol import examples_folder, load_arrays, save_arrays
from workbench.tasks.axes import resize
from workbench.tasks.trees import Tree, batch_size, leaves, to_numpy, to_torch, tree_map

if TYPE_CHECKING:
    from torch import Tensor

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
        figures = (self.quality, self.drop, self.low, self.high, self.agreement)
        return {**dict(zip(QUALITY, figures, strict=True)), "notes": self.notes}


def write_inputs(task: Task, folder: Path, *, points: tuple[OperatingPoint, ...]) -> None:
    """Write the evaluation inputs and one example batch per point into ``folder``, if they are missing."""
    write_split(task, folder, "evaluation")
    for point in points:
        if not _written(examples_folder(folder, point)):
            examples = resize(task.examples(point.batch), task.open_dims, dict(point.shape))
            save_arrays(to_numpy(examples), examples_folder(folder, point))


def write_split(task: Task, folder: Path, split: str) -> None:
    """Write the inputs of a split into ``folder``, if they are missing."""
    if not _written(folder / split):
        save_arrays(to_numpy(task.split(split).inputs), folder / split)


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


def agreement(mine: Tree, base: Tree, targets: Tree) -> tuple[float | None, str]:
    """Return the share of samples whose largest output is that of the float model, with a note.

    An output has classes if it is float and there are targets with class numbers for it: ``[n]`` for ``[n, c]``,
    ``[n, ...]`` for ``[n, c, ...]`` or ``[n, ..., c]``. Each array of targets belongs to the first output that fits.
    Several positions in a sample are counted one by one. A position with NaN or infinity never agrees. Without classes
    the share is None, and the note holds correlation and relative error.

    Examples
    --------
    >>> import torch
    >>> mine, base = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[0.0, 2.0], [1.0, 2.0]])
    >>> agreement(mine, base, torch.tensor([1, 1]))[0]
    0.5
    """
    pairs = list(zip(leaves(mine), leaves(base), strict=True))
    with_classes = _with_classes(pairs, targets)
    if not with_classes:
        return None, f"The outputs have no classes. {_nearness(pairs)}"
    same = total = 0
    for m, b, axis in with_classes:
        equal = (m.argmax(axis) == b.argmax(axis)) & m.isfinite().all(axis)
        same, total = same + int(equal.sum()), total + equal.numel()
    what = "samples" if total == with_classes[0][0].shape[0] else f"{total:,} positions of samples"
    return same / total, f"The share of {what} with the same largest output as the float model."


def _with_classes(pairs: Sequence[tuple[Tensor, Tensor]], targets: Tree) -> list[tuple[Tensor, Tensor, int]]:
    """Return the outputs that have classes, with the axis of the classes."""
    matches: dict[int, tuple[Tensor, Tensor, int]] = {}
    for labels in leaves(targets):
        for place, (mine, base) in enumerate(pairs):
            axis = _class_axis(base, labels) if place not in matches else None
            if axis is not None:
                matches[place] = (mine, base, axis)
                break
    return list(matches.values())


def _class_axis(outputs: Tensor, labels: Tensor) -> int | None:
    whole = not (labels.is_floating_point() or labels.is_complex() or str(labels.dtype) == "torch.bool")
    if not outputs.is_floating_point() or outputs.ndim < 2 or not whole or not labels.numel():
        return None
    for axis in (1, outputs.ndim - 1):
        rest = tuple(size for i, size in enumerate(outputs.shape) if i != axis)
        if tuple(labels.shape) == rest and int(labels.max()) < outputs.shape[axis] > 1:
            return axis
    return None


def _nearness(pairs: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Return the note on Pearson correlation and relative error (2-norm) over all float outputs."""
    import torch

    floats = [(m.double().flatten(), b.double().flatten()) for m, b in pairs if b.is_floating_point()]
    if not floats:
        return "They are not floats: their error is not measured."
    mine, base = (torch.cat(parts) for parts in zip(*floats, strict=True))
    if not bool(mine.isfinite().all() and base.isfinite().all()):
        return "Some are NaN or infinite: their error is not measured."
    norm = float(base.norm())
    error = f"relative error {float((mine - base).norm()) / norm:.2g}" if norm else "the float model's are all 0"
    a, b = mine - mine.mean(), base - base.mean()
    spread = float(a.norm() * b.norm())
    if not spread or not math.isfinite(spread):
        return f"Against the float model's: {error}."
    return f"Against the float model's: correlation {float(a @ b) / spread:.6g}, {error}."
