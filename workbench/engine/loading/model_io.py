"""Describe the inputs and outputs of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.core.errors import EngineError
from workbench.core.untrusted import require_line
from workbench.export.io import IOSpec, TensorSpec

Tensor = tuple[TensorSpec, int | None]
"""An input or output and its batch size; None for an open batch."""


def tensor_of(path: Path, name: str, dtype: str, shape: Sequence[int | None] | None) -> Tensor:
    """Return a tensor of a file; ``shape`` includes the batch, with None for open dimensions.

    Raises EngineError if the tensor has no batch dimension.
    """
    name = require_line(f"{path}: an input or output name", name, error=EngineError)
    if not shape:
        raise EngineError(f"{path}: every input and output must be a tensor with a batch dimension, {name!r} is not.")
    return TensorSpec(name, dtype, tuple(shape[1:])), shape[0]


def io_of(inputs: Sequence[Tensor], outputs: Sequence[Tensor], path: Path) -> IOSpec:
    """Return the io description of a model file; raise EngineError if fixed batch sizes differ."""
    sizes = {size for _, size in inputs if size is not None}
    if len(sizes) > 1:
        raise EngineError(f"{path}: fixed batch sizes of all inputs must agree, got {sorted(sizes)}.")
    names = [spec.name for spec, _ in outputs]
    tree = {"leaf": 0} if len(names) == 1 else {"dict": {name: {"leaf": i} for i, name in enumerate(names)}}
    return IOSpec(
        kind="tensor" if len(inputs) == 1 else "dict",
        inputs=tuple(spec for spec, _ in inputs),
        outputs=tuple(spec for spec, _ in outputs),
        output_tree=tree,
        batch=next(iter(sizes), None),
    )
