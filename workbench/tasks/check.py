"""Validate a task before any work: data, model, loss, metric, augmentation, and overlap of the splits."""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from workbench.core.errors import TaskError
from workbench.tasks.module import weights_digest
from workbench.tasks.split import Split, raw_bytes
from workbench.tasks.trees import Tree, batch_size, call_model, named_leaves, slice_batch, tree_map

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_CHUNK = 1024
_SLOW_S = 5.0
"""Seconds of build() that cause a warning."""
_HELD_OUT = " after validation and calibration were held out"
_OVERLAP_LIMIT = 0.01
_LEAST_JUDGED, _ORDERS, _CLEARLY = 32, 8, 6.0
"""Minimum samples, shuffled orders, and standard deviations for the check of the metric's direction."""
_RELATIVE, _OF_LARGEST = 1e-2, 1e-3
"""Tolerances: relative to the value, and to the largest value. Runtimes sum in different orders."""


def check_task(task: Task) -> tuple[str, ...]:
    """Raise TaskError for the first problem; return warnings."""
    for role in task.roles:
        _check_values(task, task.split(role))
        _check_structure(task, task.split(role).take([0]).inputs, role)
    _check_structure(task, task.examples(1), "example_inputs")
    outputs, build_s = _check_model(task)
    _ = task.open_dims  # validates dynamic
    _check_loss(task, outputs)
    _check_metric(task)
    _check_augment(task)
    notes = []
    if build_s >= _SLOW_S:
        advice = "Train once, save the weights, and load them in build()."
        notes.append(f"build() takes {build_s:.0f} s, and every worker of a study calls it. {advice}")
    return (*notes, *_held_out(task), *_check_overlap(task))


def _fail(task: Task, message: str, cause: Exception | None = None) -> TaskError:
    reason = f" ({type(cause).__name__}: {cause})" if cause is not None else ""
    return TaskError(f"Task {task.name}: {message}{reason}")


def _check_values(task: Task, split: Split) -> None:
    for start, (inputs, targets) in zip(range(0, len(split), _CHUNK), split.batches(_CHUNK), strict=True):
        for role, tree in (("inputs", inputs), ("targets", targets)):
            for path, leaf in named_leaves(tree, role):
                if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
                    row = int((~leaf.isfinite()).reshape(len(leaf), -1).any(1).nonzero()[0])
                    raise _fail(
                        task,
                        f"{split.name} {path} must be finite, got NaN or infinity first in sample {start + row} of "
                        f"{len(split)}{_HELD_OUT if split.name == 'train' else ''}. Remove or fill such samples.",
                    )


def _describe(inputs: Tree) -> dict[str, str]:
    return {path: f"{str(leaf.dtype)[6:]} {list(leaf.shape[1:])}" for path, leaf in named_leaves(inputs, "inputs")}


def _check_structure(task: Task, inputs: Tree, role: str) -> None:
    first = "train" if task.has_train else "evaluation"
    shapes = [_describe(inputs), _describe(task.split(first).take([0]).inputs)]
    if shapes[0] != shapes[1]:
        own, expected = (", ".join(f"{key}: {value}" for key, value in one.items()) for one in shapes)
        raise _fail(task, f"{role} must have the inputs of {first} per sample, {expected}, got {own}.")


def _probe(task: Task) -> Split:
    """Return two training (else validation) samples; for class labels, those with the lowest and highest label."""
    split = task.train if task.has_train else task.validation
    targets = split.targets
    if isinstance(targets, torch.Tensor) and targets.ndim == 1:
        return split.take([int(targets.argmin()), int(targets.argmax())])
    return split.take([0, min(1, len(split) - 1)])


def _check_model(task: Task) -> tuple[Tree, float]:
    """Return the outputs for two samples, and the seconds of ``build()``."""
    begun = time.perf_counter()
    model = task.model()
    build_s = time.perf_counter() - begun
    if weights_digest(model) != weights_digest(task.model()):
        raise _fail(task, "build() must return the same weights each time. Load the trained weights inside build().")
    probe = _probe(task)
    names = ", ".join(task.parameter_names)
    try:
        with torch.no_grad():
            outputs = call_model(model, probe.inputs)
            single = dict(named_leaves(call_model(model, probe.take([0]).inputs), "output"))
            again = dict(named_leaves(call_model(model, probe.inputs), "output"))
            mixed = batch_dependent_output(model, probe.inputs) or batch_dependent_output(model, task.examples(3))
    except Exception as error:
        shapes = ", ".join(f"{k} {v}" for k, v in _describe(probe.inputs).items())
        doubles = ". It runs in float32: do not convert to float64 in forward" if "Double" in str(error) else ""
        message = f"the model failed on a batch of 2 ({names}; per sample: {shapes}){doubles}"
        raise _fail(task, message, error) from error
    listed = list(named_leaves(outputs, "output"))
    if not listed:
        raise _fail(task, "forward must return tensors, got none.")
    for path, leaf in listed:
        if not isinstance(leaf, torch.Tensor):
            raise _fail(task, f"forward must return tensors, got {type(leaf).__name__} for {path}.")
        alone = getattr(single.get(path), "shape", None)
        if leaf.shape[:1] != (2,) or alone is None or alone[:1] != (1,):
            raise _fail(
                task,
                f"the first dimension of the model's {path} must be the batch, got shape {list(leaf.shape)} for 2 "
                f"samples and {'none' if alone is None else list(alone)} for one. Look for a squeeze, a reshape with a "
                "fixed size, or a mean over the batch.",
            )
        if leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            raise _fail(task, f"the model's {path} must be finite, got NaN or infinity. Check its weights.")
    changed = [path for path, leaf in listed if not outputs_equal(leaf, again.get(path))]
    if changed:
        raise _fail(
            task,
            f"the model's {changed[0]} must be the same for the same inputs. Disable dropout and other random parts in "
            "eval mode, and keep no state between calls.",
        )
    if mixed is not None:
        raise _fail(
            task,
            f"the model's {mixed} for a sample depends on the other samples of its batch. Layers must treat "
            "samples apart in eval mode (and dropout must be off).",
        )
    return outputs, build_s


def _check_loss(task: Task, outputs: Tree) -> None:
    probe = _probe(task)
    leaves = tree_map(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, outputs)
    try:
        value = task.loss(leaves, probe.targets)
    except Exception as error:
        shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in named_leaves(outputs, "output"))
        aims = (
            ", ".join(
                f"{k} {v.tolist() if v.ndim == 1 else list(v.shape)}" for k, v in named_leaves(probe.targets, "targets")
            )
            or "no targets"
        )
        raise _fail(task, f"the loss failed with {shapes} and {aims}", error) from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        kind = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise _fail(task, f"the loss must return a scalar tensor, got {kind}. Take the mean over the batch.")
    if not math.isfinite(value.item()):
        reason = f"the loss must be finite, got {value.item()} on two {probe.name} samples"
        raise _fail(task, f"{reason}. Check the labels and the loss.")
    if not value.requires_grad:
        raise _fail(task, "the loss must have a gradient for the outputs. Compute it with torch, without detach().")


def _check_metric(task: Task) -> None:
    """Evaluate a few samples, or more if the metric fails on these, as an AUC does for one class."""
    size, model = len(task.evaluation), task.model()
    problem: TaskError | None = None
    for count in dict.fromkeys(min(count, size) for count in (8, 64, size)):
        rows = np.unique(np.linspace(0, size - 1, count).astype(int))
        try:
            value = task.evaluate(model, split=task.evaluation.take(rows))
        except TaskError as error:
            problem = error
            continue
        if math.isfinite(value):
            _check_direction(task, model)
            return
        problem = _fail(task, f"the metric must be finite, got {value} on {len(rows)} evaluation samples.")
    if problem is not None:
        raise problem


def _check_direction(task: Task, model: Any) -> None:
    """Raise TaskError if the metric is clearly larger for shuffled outputs than for the right ones."""
    some = task.evaluation.take(range(min(len(task.evaluation), 256)))
    size = len(some)
    if size < _LEAST_JUDGED:
        return
    outputs = task.outputs(model, some)
    shifts = np.unique(np.linspace(1, size - 1, _ORDERS).astype(int)).tolist()
    try:
        right = task.score(outputs, some)
        wrong = np.array([task.score(tree_map(lambda leaf: leaf.roll(by, 0), outputs), some) for by in shifts])  # noqa: B023
    except TaskError:  # some metrics fail for shuffled outputs
        return
    if right < wrong.mean() - _CLEARLY * max(float(wrong.std()), 0.01 * abs(float(wrong.mean()))):
        raise _fail(
            task,
            f"a higher metric must be better, got {right:.4g} for the outputs and {wrong.mean():.4g} for shuffled "
            "ones. Give Task(higher_is_better=False), or return the negative.",
        )


def _check_augment(task: Task) -> None:
    if task.augment is None:
        return
    inputs = _probe(task).inputs
    try:
        changed = task.augment(tree_map(torch.clone, inputs), torch.Generator().manual_seed(0))
        after = _describe(changed)
    except Exception as error:
        raise _fail(task, "augment(inputs, generator) failed on a batch of 2", error) from error
    if after != _describe(inputs) or any(len(leaf) != 2 for _, leaf in named_leaves(changed)):
        raise _fail(task, f"augment must keep shapes and dtypes {_describe(inputs)}, got {after}.")


def _held_out(task: Task) -> tuple[str, ...]:
    """Return the warning about evaluation samples that serve as validation or calibration."""
    if task.has_train:
        return ()
    held = [f"{role} ({len(task.split(role)):,})" for role in task.held_out]
    counts = f" {' and '.join(held)} were held out of evaluation ({len(task.evaluation):,} left)." if held else ""
    return (f"Without a training split, steps that train are refused.{counts}",)


def _hashes(split: Split) -> list[bytes]:
    """Return a short hash of every sample's inputs."""
    hashes: list[bytes] = []
    for inputs, _ in split.batches(_CHUNK):
        rows = [np.frombuffer(raw_bytes(leaf), np.uint8).reshape(len(leaf), -1) for _, leaf in named_leaves(inputs)]
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
        hashes += [hashlib.blake2b(row.data, digest_size=12).digest() for row in joined]
    return hashes


def _check_overlap(task: Task) -> tuple[str, ...]:
    hashes = {role: _hashes(task.split(role)) for role in task.roles}
    seen_in_training = {h for role in task.roles[:-1] for h in hashes[role]}
    others = "training" if task.has_train else "calibration or validation"
    notes = []
    for judge, reference in (("evaluation", seen_in_training), ("validation", set(hashes.get("train", ())))):
        shared = sum(h in reference for h in hashes[judge])
        # data of few distinct values repeats without any leakage
        distinct = len(set(hashes[judge])) >= (1 - _OVERLAP_LIMIT) * len(hashes[judge])
        share = f"{shared} of {len(hashes[judge])} {judge} samples are also among the {others} samples"
        if distinct and shared > _OVERLAP_LIMIT * len(hashes[judge]):
            raise _fail(task, f"{share} (data leakage). Remove them from one split.")
        if shared:
            notes.append(f"{share}.")
    return tuple(notes)


def batch_dependent_output(model: nn.Module, inputs: Tree) -> str | None:
    """Return the name of the first output in which a sample depends on the rest of its batch, or None.

    Every sample is run alone and compared with its row of the batch, because it may depend on the first row only.
    """
    size = batch_size(inputs)

    def outputs(start: int, stop: int) -> dict[str, Any]:
        part = tree_map(torch.clone, slice_batch(inputs, start, stop))  # the model may write into it
        return dict(named_leaves(call_model(model, part), "output"))

    with torch.no_grad():
        together = outputs(0, size)
        for place in range(size):
            alone = outputs(place, place + 1)
            for name, batch in together.items():
                has_batch = isinstance(batch, torch.Tensor) and batch.shape[:1] == (size,)
                if has_batch and not outputs_equal(batch[place : place + 1], alone.get(name)):
                    return name
    return None


def outputs_equal(one: torch.Tensor, other: Any) -> bool:
    """Return True if two outputs are equal up to the order of summation."""
    if not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    largest = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=_RELATIVE, atol=_OF_LARGEST * largest, equal_nan=True)
