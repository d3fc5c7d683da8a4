"""Losses between student and teacher: outputs, features, attention maps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from workbench.compress.distill.config import Head
from workbench.core.errors import ConfigError, WorkbenchError, unknown_name
from workbench.tasks.trees import Tree, call_model, leaves, named_leaves, tree_map

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_CONSTANT = 1e-4
_PROBED, _SAME = 8, 1e-3
LONE = "output"
"""Name of the output of a model that returns a single tensor."""


def mixed_loss(
    outputs: Tree,
    teacher: Tree,
    targets: Tree,
    label_loss: Callable[[Tree, Tree], torch.Tensor],
    *,
    temperature: float,
    alpha: float,
    heads: Mapping[str, Head] | None = None,
) -> torch.Tensor:
    """Return ``alpha * teacher part + (1 - alpha) * label loss``.

    The teacher part is the mean over floating output leaves of :func:`leaf_loss`, weighted by ``heads``.
    """
    total, weight = torch.zeros(()), 0.0
    for (name, mine), theirs in zip(named_leaves(outputs), leaves(teacher), strict=True):
        head = (heads or {}).get(name or LONE, Head())
        if mine.is_floating_point() and head.weight:
            total = total + head.weight * leaf_loss(mine, theirs, temperature, head.kind)
            weight += head.weight
    if not weight:
        raise WorkbenchError("Distill needs a floating-point output; this model has none.")
    soft = total / weight
    return soft if alpha == 1.0 else alpha * soft + (1 - alpha) * label_loss(outputs, targets)


def leaf_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float, kind: str = "auto") -> torch.Tensor:
    """Return the loss between one output and the teacher's.

    ``"kl"``: ``T^2 * KL(teacher || student)`` over dimension 1, mean over the others; ``"kl_last"``: over the last
    dimension; ``"mse"``: the mean squared error; ``"auto"``: ``"kl"`` for outputs [n, classes], else ``"mse"``.
    """
    if kind == "auto":
        kind = "kl" if student.ndim == 2 and student.shape[1] > 1 else "mse"
    if kind == "mse":
        return functional.mse_loss(student, teacher)
    axis = 1 if kind == "kl" else -1
    mine, theirs = (x.movedim(axis, -1).flatten(0, -2) for x in (student, teacher))
    divergence = functional.kl_div(
        functional.log_softmax(mine / temperature, dim=1),
        functional.log_softmax(theirs / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


def class_outputs(task: Task, module: torch.nn.Module | None = None) -> frozenset[str]:
    """Return the names of the outputs [n, classes] that are logits or log-probabilities by the task's own loss.

    Logits are recognized by a loss that does not change if a constant is added to all logits of a sample. ``module`` is
    the task's model, if already built.
    """
    module = task.model() if module is None else module
    split = task.train if task.has_train else task.validation
    some = split.take(range(min(_PROBED, len(split))))
    with torch.no_grad():
        outputs = tree_map(torch.clone, call_model(module, some.inputs))
        before = float(task.loss(outputs, some.targets))
        names = []
        for name, leaf in named_leaves(outputs):
            if not (leaf.is_floating_point() and leaf.ndim == 2 and leaf.shape[1] > 1):
                continue
            if torch.allclose(leaf.exp().sum(1), torch.ones(()), atol=1e-3):
                names.append(name or LONE)
                continue
            kept, shift = leaf.clone(), torch.linspace(1, 2, len(leaf))[:, None] * max(1.0, float(leaf.abs().max()))
            leaf += shift
            if abs(float(task.loss(outputs, some.targets)) - before) <= _SAME * max(1.0, abs(before)):
                names.append(name or LONE)
            leaf.copy_(kept)
    return frozenset(names)


def resolve_heads(heads: Mapping[str, Head], outputs: Tree, classes: Collection[str]) -> dict[str, Head]:
    """Return the heads of all outputs with ``"auto"`` resolved: ``"kl"`` for ``classes``, else ``"mse"``."""
    resolved = {}
    for name, _ in named_leaves(outputs):
        head = heads.get(name or LONE, Head())
        kind = ("kl" if (name or LONE) in classes else "mse") if head.kind == "auto" else head.kind
        resolved[name or LONE] = head._replace(kind=kind)
    return resolved


def check_heads(outputs: Tree, heads: Mapping[str, Head]) -> None:
    """Raise :class:`ConfigError` if ``heads`` does not fit the outputs of the model."""
    available = {name or LONE: leaf for name, leaf in named_leaves(outputs)}
    floating = [name for name, leaf in available.items() if leaf.is_floating_point()]
    for name, head in heads.items():
        if name not in floating:
            raise ConfigError("Distill.heads: " + unknown_name("floating-point output", name, floating))
        if head.kind in ("kl", "kl_last") and available[name].ndim < 2:
            raise ConfigError(f"Distill.heads: {name} has no classes to compare by {head.kind}: use mse.")
    if floating and not any(heads.get(name, Head()).weight for name in floating):
        raise ConfigError(f"Distill.heads gives weight 0 to every output ({', '.join(floating)}).")


def feature_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of features over the variance of the teacher's.

    The hint loss of Romero et al. 2015 (FitNets, arXiv 1412.6550), normalized: a student that outputs the teacher's
    mean has an error of 1. Features of almost no variance are normalized by their mean square.
    """
    scale = teacher.var(correction=0).clamp_min(_CONSTANT * teacher.pow(2).mean())
    return functional.mse_loss(student, teacher) / torch.where(scale > 0, scale, torch.ones_like(scale))


def attention_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the cosine between the attention maps of features ``[n, positions, channels]``.

    Zagoruyko and Komodakis 2017, arXiv 1612.03928, with p = 2.
    """
    difference = attention_map(student) - attention_map(teacher)
    return 0.5 * difference.pow(2).sum(1).mean()


def attention_map(features: torch.Tensor) -> torch.Tensor:
    """Return the squares of features ``[n, positions, channels]`` summed over channels, normalized to length 1."""
    return functional.normalize(features.pow(2).sum(-1), dim=1)
