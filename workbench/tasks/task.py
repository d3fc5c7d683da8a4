"""Task: what the model must do, and how well it does it."""

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
from workbench.tasks.axes import checked_dynamic, open_dims, plain
from workbench.tasks.digest import weights_digest
from workbench.tasks.module import own_module, with_own_inputs, writes_inputs
from workbench.tasks.split import ROLES, Split
from workbench.tasks.trees import Tree, batch_size, call_model, concat, named_leaves, slice_batch, to_torch, tree_map

__all__ = ["Split", "Task"]

MAX_VALIDATION = 2000
MAX_CALIBRATION = 256
_SPLIT_SEED = 20_240_229


class Task:
    """A trained model with the data, metric and loss that say what it must do.

    Parameters
    ----------
    name
        Stands in every row and chart.
    build
        Returns the trained module. Called without arguments, in other processes too; load the weights inside.
    train, evaluation
        ``(inputs, targets)`` as tensors or arrays ``[n, ...]``, a Dataset, a DataLoader, or a list of samples;
        inputs may be a tuple or a dict (keywords of ``forward``). Read when first needed. ``train`` may be left out:
        steps that train are then refused, the others work.
    metric
        ``metric(outputs, targets) -> float`` over a whole split as CPU tensors; higher is better.
    loss
        ``loss(outputs, targets) -> scalar tensor`` over a batch.
    calibration, validation
        As ``train``. By default 256 and a tenth (at most 2,000) of the training samples, taken out with a fixed seed;
        without a training split they are taken out of the evaluation samples. ``calibration`` needs no targets.
    example_inputs
        A batch ``[n, ...]`` in the structure of the inputs; by default the first training (else calibration) samples.
    augment
        ``augment(inputs, generator) -> inputs`` for a batch, used in training only.
    dynamic
        Dimensions of ``forward``'s parameters that may have any size: ``{"tokens": {1: "sequence"}}``; batch is 0.
    version
        Change it when metric or loss change: results of another version are never mixed.
    reference
        How another process finds the task again; ``load_task`` sets it.
    higher_is_better
        False for a metric of which less is better, such as an error: quality is then its negative everywhere.

    Attributes
    ----------
    has_train : bool
        Whether there is a training split.
    held_out : tuple of str
        Which of validation and calibration are taken out of the training samples, else of the evaluation samples.

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
                "Task build must be a function that returns the module, not the module: write build=lambda: model."
            )
        for word, given in (("build", build), ("metric", metric), ("loss", loss), ("augment", augment)):
            if not callable(given) and not (word == "augment" and given is None):
                raise TaskError(f"Task {word} must be a function, got {given!r}.")
        if evaluation is None:
            raise TaskError("Task evaluation must be given: (inputs, targets), a Dataset or a DataLoader.")
        self.name, self.version, self.reference = name, str(version), reference
        if not isinstance(higher_is_better, bool):
            raise TaskError(f"Task higher_is_better must be True or False, got {higher_is_better!r}.")
        self.higher_is_better = higher_is_better
        self.metric = metric if higher_is_better else Negative(metric)
        self.build, self.loss, self.augment = build, loss, augment
        self.dynamic = checked_dynamic(dynamic)
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
        """Names of the splits that the task has: all, or all but train."""
        return ROLES if self.has_train else ROLES[1:]

    @property
    def train(self) -> Split:
        """Samples to train on, without those of validation and calibration.

        Raises
        ------
        TaskError
            If the task has no training split; see :attr:`has_train`.
        """
        return self._read("train")

    @property
    def validation(self) -> Split:
        """Samples that steps, search and early stops are judged by."""
        return self._read("validation")

    @property
    def calibration(self) -> Split:
        """Samples that quantization takes its ranges from."""
        return self._read("calibration")

    @property
    def evaluation(self) -> Split:
        """Samples that only finished variants are judged by."""
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
                self._splits[role] = _named(Split.of(self._sources[role], name=role), role)
            else:
                self._divide()
            self._sources[role] = None
        return self._splits[role]

    def _divide(self) -> None:
        """Read the splits; take validation and calibration out of train, else of evaluation, if they are not given."""
        source, roles = ("train", ROLES[:3]) if self.has_train else ("evaluation", ROLES[1:])
        given = {r: Split.of(self._sources[r], name=r) for r in roles if self._sources[r] is not None}
        whole = given[source]
        wanted = self.held_out
        counts = {"validation": min(MAX_VALIDATION, max(1, len(whole) // 10))}
        counts["calibration"] = min(MAX_CALIBRATION, max(1, (len(whole) - counts["validation"]) // 4))
        if wanted and len(whole) <= sum(counts[r] for r in wanted):
            raise TaskError(
                f"{source} has {len(whole)} samples, too few to take {' and '.join(wanted)} from; give "
                f"more samples, or {' and '.join(wanted)}."
            )
        order = torch.from_numpy(np.random.default_rng(_SPLIT_SEED).permutation(len(whole)))
        start = 0
        for role in wanted:
            given[role] = whole.take(order[start : start + counts[role]].sort().values, name=role)
            start += counts[role]
        if wanted:
            given[source] = whole.take(order[start:].sort().values, name=source)
        self._splits |= {role: _named(split, role) for role, split in given.items()}

    def model(self) -> nn.Module:
        """Return a fresh copy of the trained module: on the CPU, float32, in eval mode.

        Raises
        ------
        TaskError
            If ``build`` fails or gives no module, or a weight is NaN or infinite (the message names it).
        """
        module = own_module(self.build, whose=f"Task {self.name}")
        for key, value in module.state_dict().items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                bad = int((~value.isfinite()).sum())
                raise TaskError(
                    f"Task {self.name}: {key} holds {bad} of {value.numel()} values that are NaN or "
                    "infinite. Load the weights of a training that converged."
                )
        if self._writes_inputs is None:
            self._writes_inputs = writes_inputs(module, self.examples(2))
        return with_own_inputs(module) if self._writes_inputs else module

    def examples(self, n: int = 1) -> Tree:
        """Return a batch of ``n`` inputs ``[n, ...]``; fewer samples than that are repeated."""
        if n < 1:
            raise TaskError(f"The number of examples must be at least 1, got {n}.")
        if self._example_inputs is not None:
            given, size = self._example_inputs, batch_size(self._example_inputs)
        else:
            split = self._read(self.roles[0])
            size = len(split)
            given = split.take(range(min(n, size))).inputs
        if size >= n:
            return tree_map(torch.clone, slice_batch(given, 0, n))
        return slice_batch(concat([given] * math.ceil(n / size)), 0, n)

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
                f"Task {self.name}: the data has {count} inputs, but forward takes only "
                f"{len(names)} ({', '.join(names) or 'none'})."
            )
        return tuple(names[:count])

    @functools.cached_property
    def open_dims(self) -> list[dict[int, str]]:
        """For each input, flat and in order, the dimensions that ``dynamic`` leaves open."""
        return open_dims(self.dynamic, self.parameter_names, self.examples(1))

    def outputs(self, predict: Callable[[Tree], Tree], split: str | Split = "evaluation", batch_size: int = 64) -> Tree:
        """Return the outputs for a whole split, joined, as CPU tensors in the model's output structure.

        ``predict`` gets a batch of inputs in the split's structure and gives tensors or numpy arrays; a module
        may be given as it is.
        """
        data = self.split(split) if isinstance(split, str) else split
        call = functools.partial(call_model, predict) if isinstance(predict, nn.Module) else predict
        with torch.no_grad():
            # copies: what is called may write into its inputs, and these are the task's own data
            return concat([to_torch(call(tree_map(torch.clone, inputs))) for inputs, _ in data.batches(batch_size)])

    def score(self, outputs: Tree, split: str | Split = "evaluation") -> float:
        """Return the metric of outputs that were made for a whole split."""
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
        """Return the metric of ``predict`` over a split.

        Examples
        --------
        >>> task.evaluate(task.model())
        0.953
        """
        return self.score(self.outputs(predict, split, batch_size), split)

    def check(self) -> tuple[str, ...]:
        """Look for everything that would fail later; return remarks that are no errors. Done once per task.

        Raises
        ------
        TaskError
            Saying what is wrong with data, model, metric or loss, and what to do.
        """
        if self._notes is None:
            from workbench.tasks.check import check_task

            self._notes = check_task(self)
        return self._notes

    @functools.cached_property
    def fingerprint(self) -> str:
        """12 hex digits over the data of all splits, the float weights and the version."""
        digests = {role: self.split(role).digest for role in self.roles}
        known = {"data": digests, "weights": weights_digest(self.model()), "version": self.version}
        known |= {"dynamic": plain(self.dynamic)} if self.dynamic else {}
        return short_id(known if self.higher_is_better else {**known, "higher_is_better": False})

    def __getstate__(self) -> dict[str, Any]:
        # another process gets the samples as they were split here, not the loaders they came from
        for role in self.roles:
            self._read(role)
        return self.__dict__


class Negative:
    """The negative of a metric of which less is better."""

    def __init__(self, metric: Callable[[Tree, Tree], float]) -> None:
        self.__wrapped__ = metric

    def __call__(self, outputs: Tree, targets: Tree) -> Any:
        """Return it."""
        return -self.__wrapped__(outputs, targets)


def _named(split: Split, role: str) -> Split:
    if split.name != role:
        split = copy.copy(split)
        split.name = role
    return split
