"""Agreement of an engine's answers with the float model's; correlation and error if outputs have no classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.tasks.trees import Tree, leaves

if TYPE_CHECKING:
    from torch import Tensor


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
    if not outputs.is_floating_point() or outputs.ndim < 2 or not _is_whole(labels) or not labels.numel():
        return None
    for axis in (1, outputs.ndim - 1):
        rest = tuple(size for i, size in enumerate(outputs.shape) if i != axis)
        if tuple(labels.shape) == rest and int(labels.max()) < outputs.shape[axis] > 1:
            return axis
    return None


def _is_whole(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex() or str(labels.dtype) == "torch.bool")


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
