"""Task: a trained model with its data, metric and loss."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.core.config import short_id
from workbench.core.errors import TaskError, unknown_name
from workbench.core.untrusted import require_line
from workbench.tasks.axes import check_dynamic, dynamic_to_json, open_dims
from workbench.tasks.module import build_module, copy_inputs, weights_digest, writes_inputs
from workbench.tasks.split import ROLES, Split
from workbench.tasks.trees import Tree, batch_size, call_model, concat, named_leaves, slice_batch, to_torch, tree_map

MAX_VALIDATION = 2000
MAX_CALIBRATION = 256
_SPLIT_SEED = 20_240_229


class Task:
    """A trained model with its data, metric and loss.

    Parameters
    ----------
    name
        Shown in every row and chart.
    build
        Returns the trained module. Called without arguments, also in other processes; load the weights inside.
    train, evaluation
        ``(inputs, targets)`` as tensors or arrays ``[n, ...]``, a Dataset, a DataLoader, or a list of samples;
        inputs may be a tuple or a dict (keywords of ``forward``). Read on first use. Without ``train``, only steps
        that do not train work.
    metric
        ``metric(outputs, targets) -> float`` over a whole split as CPU tensors; higher is better.
    loss
        ``loss(outputs, targets) -> scalar tensor`` over a batch.
    calibration, validation
        As ``train``. By default 256 and a tenth (at most 2,000) of the training samples, held out with a fixed seed;
        without a training split, of the evaluation samples. ``calibration`` needs no targets.
    example_inputs
        A batch ``[n, ...]`` in the structure of the inputs; by default the first training (else calibration) samples.
    augment
        ``augment(inputs, generator) -> inputs`` for a batch, for training only.
    dynamic
        Dimensions of ``forward``'s parameters of any size: ``{"tokens": {1: "sequence"}}``; the batch is 0.
    version
        Change it together with metric or loss: results of different versions are never mixed.
    reference
        Name by which another process loads the task; set by ``load_task``.
    higher_is_better
        False for a metric such as an error: quality is its negative then.

    Attributes
    ----------
    has_train : bool
        True if the task has a training split.
    held_out : tuple of str
        The splits (validation, calibration) that are held out of the training, else the evaluation samples.

    Examples
    --------
    >>> task = Task(name="mine", build=make_trained_model, train=(x, y), evaluation=(x2, y2),
    ...             metric=lambda out, y: (out.argmax(1) == y).float().mean().item(),
    ...             loss=torch.nn.functional.cross_entropy)
    >>> task.evaluate(task.model())
    0.94
    """

    def __init__(
        self,
        *,
        name: str,
        build: Callable[[], nn.Module],
        evaluation: Any,
        metric: Callable[[Tree, Tree], float],
        loss: Callable[[Tree, Tree], torch.Tensor],
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        example_inputs: Tree = None,
        augment: Callable[[Tree, torch.Generator], Tree] | None = None,
        dynamic: Mapping[str, Mapping[int, str]] | None = None,
        version: str = "1",
        reference: str | None = None,
        higher_is_better: bool = True,
    ) -> None:
        require_line("Task name", name, error=TaskError)
        if isinstance(build, nn.Module):
            raise TaskError(
                "Task build must be a function that returns the module, got the module. Write build=lambda: model."
            )
        for argument, function in (("build", build), ("metric", metric), ("loss", loss), ("augment", augment)):
            if not callable(function) and not (argument == "augment" and function is None):
                raise TaskError(f"Task {argument} must be a function, got {function!r}.")
        if evaluation is None:
            raise TaskError("Task evaluation must be given: (inputs, targets), a Dataset or a DataLoader.")
        self.name, self.version, self.reference = name, str(version), reference
        if not isinstance(higher_is_better, bool):
            raise TaskError(f"Task higher_is_better must be True or False, got {higher_is_better!r}.")
        self.higher_is_better = higher_is_better
        self.metric = metric if higher_is_better else Negative(metric)
        self.build, self.loss, self.augment = build, loss, augment
        self.dynamic = check_dynamic(dynamic)
        self.has_train = train is not None
        self._example_inputs = None if example_inputs is None else to_torch(example_inputs)
        self._sources: dict[str, Any] = {"train": train, "evaluation": evaluation}
        self._sources |= {"calibration": calibration, "validation": validation}
        self.held_out = tuple(r for r in ("validation", "calibration") if self._sources[r] is None)
        self._splits: dict[str, Split] = {}
        self._notes: tuple[str, ...] | None = None
        self._writes_inputs: bool | None = None

    def __repr__(self) -> str:
        return f"Task({self.name!r}, version={self.version!r})"

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the task's splits: all, or all but train."""
        return ROLES if self.has_train else ROLES[1:]

    @property
    def train(self) -> Split:
        """Training samples, without validation and calibration; TaskError if :attr:`has_train` is False."""
        return self._read("train")

    @property
    def validation(self) -> Split:
        """Samples for decisions of steps, search and early stopping."""
        return self._read("validation")

    @property
    def calibration(self) -> Split:
        """Samples for the ranges of quantization."""
        return self._read("calibration")

    @property
    def evaluation(self) -> Split:
        """Samples for the quality of finished variants only."""
        return self._read("evaluation")

    def split(self, name: str) -> Split:
        """Return the split of that name: train, calibration, validation or evaluation."""
        if name not in ROLES:
            raise TaskError(unknown_name("split", name, ROLES))
        return self._read(name)

    def _read(self, role: str) -> Split:
        if role not in self.roles:
            raise TaskError(f"Task {self.name} has no training split. Give Task(train=(inputs, targets)).")
        if role not in self._splits:
            if role == "evaluation" and self.has_train:
                self._splits[role] = _renamed(Split.of(self._sources[role], name=role), role)
            else:
                self._hold_out()
            self._sources[role] = None
        return self._splits[role]

    def _hold_out(self) -> None:
        """Read the splits; hold missing ones (validation, calibration) out of train, else of evaluation."""
        source, roles = ("train", ROLES[:3]) if self.has_train else ("evaluation", ROLES[1:])
        splits = {r: Split.of(self._sources[r], name=r) for r in roles if self._sources[r] is not None}
        whole, missing = splits[source], self.held_out
        counts = {"validation": min(MAX_VALIDATION, max(1, len(whole) // 10))}
        counts["calibration"] = min(MAX_CALIBRATION, max(1, (len(whole) - counts["validation"]) // 4))
        if missing and len(whole) <= sum(counts[r] for r in missing):
            raise TaskError(
                f"{source} has {len(whole)} samples, too few to hold out {' and '.join(missing)}. Give more samples, "
                f"or {' and '.join(missing)}."
            )
        order = torch.from_numpy(np.random.default_rng(_SPLIT_SEED).permutation(len(whole)))
        start = 0
        for role in missing:
            splits[role] = whole.take(order[start : start + counts[role]].sort().values, name=role)
            start += counts[role]
        if missing:
            splits[source] = whole.take(order[start:].sort().values, name=source)
        self._splits |= {role: _renamed(split, role) for role, split in splits.items()}

    def model(self) -> nn.Module:
        """Return a fresh copy of the trained module, on the CPU, float32, in eval mode.

        Raises TaskError if ``build`` fails or returns anything but a module, or a weight is NaN or infinite.
        """
        module = build_module(self.build, whose=f"Task {self.name}")
        for key, value in module.state_dict().items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                bad = int((~value.isfinite()).sum())
                raise TaskError(
                    f"Task {self.name}: weights must be finite, got {bad} of {value.numel()} NaN or infinite values in "
                    f"{key}. Load the weights of a training that converged."
                )
        if self._writes_inputs is None:
            self._writes_inputs = writes_inputs(module, self.examples(2))
        return copy_inputs(module) if self._writes_inputs else module

    def examples(self, n: int = 1) -> Tree:
        """Return a batch of ``n`` inputs ``[n, ...]``; too few samples are repeated."""
        if n < 1:
            raise TaskError(f"The number of examples must be at least 1, got {n}.")
        if self._example_inputs is not None:
            inputs, size = self._example_inputs, batch_size(self._example_inputs)
        else:
            split = self._read(self.roles[0])
            size = len(split)
            inputs = split.take(range(min(n, size))).inputs
        if size >= n:
            return tree_map(torch.clone, slice_batch(inputs, 0, n))
        return slice_batch(concat([inputs] * math.ceil(n / size)), 0, n)

    @functools.cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the inputs: keys of a dict, else the first parameters of the model's ``forward``."""
        inputs = self.examples(1)
        if isinstance(inputs, Mapping):
            return tuple(map(str, inputs))
        count = len(inputs) if isinstance(inputs, tuple) else 1
        names: list[str] = []
        for name, parameter in inspect.signature(self.model().forward).parameters.items():
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                names += [f"{name}_{i}" for i in range(count - len(names))]
            elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
                names.append(name)
        if len(names) < count:
            raise TaskError(
                f"Task {self.name}: forward must take the {count} inputs of the data, got {len(names)} parameters "
                f"({', '.join(names) or 'none'})."
            )
        return tuple(names[:count])

    @functools.cached_property
    def open_dims(self) -> list[dict[int, str]]:
        """For each input, flat and in order, its dynamic dimensions."""
        return open_dims(self.dynamic, self.parameter_names, self.examples(1))

    def outputs(self, predict: Callable[[Tree], Tree], split: str | Split = "evaluation", batch_size: int = 64) -> Tree:
        """Return the outputs for a whole split as CPU tensors in the model's output structure.

        ``predict`` is a module, or a function that maps a batch of inputs to tensors or numpy arrays.
        """
        data = self.split(split) if isinstance(split, str) else split
        call = functools.partial(call_model, predict) if isinstance(predict, nn.Module) else predict
        with torch.no_grad():
            # clones, because predict may write into its inputs
            return concat([to_torch(call(tree_map(torch.clone, inputs))) for inputs, _ in data.batches(batch_size)])

    def score(self, outputs: Tree, split: str | Split = "evaluation") -> float:
        """Return the metric of the outputs for a whole split."""
        data = self.split(split) if isinstance(split, str) else split
        try:
            value: Any = self.metric(outputs, data.targets)
        except Exception as error:
            shapes = ", ".join(f"{key or 'output'} {list(leaf.shape)}" for key, leaf in named_leaves(outputs))
            raise TaskError(
                f"Task {self.name}: the metric failed on the {data.name} split with {shapes}: "
                f"{type(error).__name__}: {error}"
            ) from error
        number = value.item() if isinstance(value, torch.Tensor | np.ndarray) and np.prod(value.shape) == 1 else value
        if not isinstance(number, numbers.Real):
            raise TaskError(f"Task {self.name}: the metric must return one number, got {type(value).__name__}.")
        return float(number)

    def evaluate(
        self, predict: Callable[[Tree], Tree], *, split: str | Split = "evaluation", batch_size: int = 64
    ) -> float:
        """Return the metric of ``predict`` over a split, as in ``task.evaluate(task.model())``."""
        return self.score(self.outputs(predict, split, batch_size), split)

    def check(self) -> tuple[str, ...]:
        """Validate data, model, metric and loss once; return warnings, or raise TaskError for the first problem."""
        if self._notes is None:
            from workbench.tasks.check import check_task

            self._notes = check_task(self)
        return self._notes

    @functools.cached_property
    def fingerprint(self) -> str:
        """12 hex digits over the data of all splits, the float weights and the version."""
        digests = {role: self.split(role).digest for role in self.roles}
        content = {"data": digests, "weights": weights_digest(self.model()), "version": self.version}
        content |= {"dynamic": dynamic_to_json(self.dynamic)} if self.dynamic else {}
        return short_id(content if self.higher_is_better else {**content, "higher_is_better": False})

    def __getstate__(self) -> dict[str, Any]:
        # splits are pickled, not their sources
        for role in self.roles:
            self._read(role)
        return self.__dict__


class Negative:
    """Negative of a metric whose lower values are better."""

    def __init__(self, metric: Callable[[Tree, Tree], float]) -> None:
        self.__wrapped__ = metric

    def __call__(self, outputs: Tree, targets: Tree) -> Any:
        """Return the negative metric."""
        return -self.__wrapped__(outputs, targets)


def _renamed(split: Split, role: str) -> Split:
    if split.name != role:
        split = copy.copy(split)
        split.name = role
    return split
