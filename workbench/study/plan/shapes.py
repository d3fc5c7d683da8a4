"""Operating points: the batch size and the sizes of other open dimensions, such as a sequence length."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.core.checks import given, require_int, require_sequence
from workbench.core.errors import ConfigError, did_you_mean
from workbench.export.io import input_leaves

if TYPE_CHECKING:
    from workbench.tasks.axes import OpenDims
    from workbench.tasks.task import Task

Shape = tuple[tuple[str, int], ...]
"""Names of open dimensions with a size each; empty if all other dimensions are fixed."""


class OperatingPoint(NamedTuple):
    """An operating point: the batch size, and the sizes of the other open dimensions."""

    batch: int
    shape: Shape = ()

    @property
    def words(self) -> str:
        """The label: ``"32"``, or ``"32 (sequence=64)"``."""
        return f"{self.batch} ({shape_words(self.shape)})" if self.shape else str(self.batch)


def shape_words(shape: Shape) -> str:
    """Return the text of a shape in the column ``shape``.

    Examples
    --------
    >>> shape_words((("height", 32), ("width", 32)))
    'height=32, width=32'
    """
    return ", ".join(f"{name}={size}" for name, size in shape)


def own_shape(leaves: Sequence[Any], dims: OpenDims) -> Shape:
    """Return the sizes of the open dimensions in example inputs, without names that have several sizes.

    Examples
    --------
    >>> import numpy as np
    >>> own_shape([np.zeros((2, 16)), np.zeros((2, 16))], [{1: "sequence"}, {1: "sequence"}])
    (('sequence', 16),)
    """
    sizes: dict[str, set[int]] = {}
    for leaf, names in zip(leaves, dims, strict=True):
        for dim, name in names.items():
            sizes.setdefault(name, set()).add(int(leaf.shape[dim]))
    return tuple((name, values.pop()) for name, values in sizes.items() if len(values) == 1)


def task_shape(task: Task) -> Shape:
    """Return the sizes of the open dimensions in a task's example inputs."""
    return own_shape(input_leaves(task.examples(1)), task.open_dims)


def task_shapes(task: Task, shapes: Mapping[str, Sequence[int]] | None) -> tuple[Shape, ...]:
    """Return the shapes to time a task at; see :func:`shapes_of`."""
    axes = dict.fromkeys(axis for dims in task.open_dims for axis in dims.values())
    return shapes_of(shapes, axes, whose="the task's", own=task_shape(task))


def shapes_of(
    shapes: Mapping[str, Sequence[int]] | None, axes: Collection[str], *, whose: str, own: Shape = ()
) -> tuple[Shape, ...]:
    """Return the shapes to time: one for each position of the lists; ``own`` without lists.

    ConfigError is raised if ``whose`` inputs have no open dimension of a name, a size is not an integer of at least 1,
    or the lists have different lengths.

    Examples
    --------
    >>> shapes_of({"height": [32, 64], "width": [32, 64]}, ["height", "width"], whose="the task's")
    ((('height', 32), ('width', 32)), (('height', 64), ('width', 64)))
    """
    if shapes is None or shapes == {}:
        return (own,)
    if not isinstance(shapes, Mapping):
        raise ConfigError(f"shapes must be sizes by name, such as {{'sequence': [16, 64]}}; got {given(shapes)}.")
    for name in shapes:
        if name not in axes:
            raise ConfigError(_unknown(name, axes, whose))
    lists = {name: _sizes(name, sizes) for name, sizes in shapes.items()}
    counts = {len(sizes) for sizes in lists.values()}
    if len(counts) > 1:
        words = ", ".join(f"{name} {list(sizes)}" for name, sizes in lists.items())
        raise ConfigError(f"shapes must have equally many sizes for each name, got {words}.")
    rows = zip(*lists.values(), strict=True)
    return tuple(dict.fromkeys(tuple(zip(lists, sizes, strict=True)) for sizes in rows))


def _unknown(name: Any, axes: Collection[str], whose: str) -> str:
    if not axes:
        return (
            f"shapes names {name!r}, but {whose} inputs have fixed shapes: only the batch may have any size. Write "
            "Task(dynamic={'tokens': {1: 'sequence'}}) for an open dimension, and make the artifact again."
        )
    return f"shapes: {name!r} is not an open dimension.{did_you_mean(str(name), axes)} Open: {', '.join(axes)}."


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    values = require_sequence(f"shapes: {name}", sizes, of=int)
    if not values:
        raise ConfigError(f"shapes: {name} is empty. Give at least one size.")
    return tuple(require_int(f"shapes: each size of {name}", size) for size in values)


def parsed_shapes(texts: Sequence[str] | None) -> dict[str, list[int]] | None:
    """Return the shapes of ``--shape NAME=SIZES`` options, each ``"sequence=16,64"``, with a name at most once."""
    shapes: dict[str, list[int]] = {}
    for text in texts or ():
        name, _, sizes = text.partition("=")
        parts = sizes.split(",")
        if any(part.removeprefix("-").isdecimal() and int(part) < 1 for part in parts):
            raise ConfigError(f"--shape {text!r}: each size must be an integer of at least 1, as in sequence=16,64")
        if not name.isidentifier() or name in shapes or not all(part.isdecimal() for part in parts):
            twice = " twice" if name in shapes else ""
            raise ConfigError(f"--shape {text!r}{twice}: write a name and its sizes, once each: sequence=16,64")
        shapes[name] = [int(part) for part in parts]
    return shapes or None
