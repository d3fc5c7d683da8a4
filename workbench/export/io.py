"""Describe inputs and outputs of a model: names, dtypes, per-sample shapes and structure. numpy only."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.core.checks import given
from workbench.core.errors import ArtifactError
from workbench.core.untrusted import require_line
from workbench.tasks.trees import AttributeDict, Tree

LAYER_KEY = "layer"
"""Metadata key of an ONNX node for the module that it comes from."""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output; ``shape`` is that of one sample, without the batch, with None for a dynamic size.

    ``axes`` are the names of the dynamic dimensions, by dimension; empty if none has a name. ``batch_dim`` is the
    position of the batch dimension, None for an output without one. ``below`` is the size of the embedding table that
    an integer input indexes, else None.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    axes: tuple[str | None, ...] = ()
    batch_dim: int | None = 0
    below: int | None = None

    def describe(self) -> str:
        """Return a description like ``"x: float32 [batch, 3, 32, 32]"``."""
        names = self.axes or (None,) * len(self.shape)
        dims = [(name or "any") if d is None else str(d) for d, name in zip(self.shape, names, strict=True)]
        if self.batch_dim is not None:
            dims.insert(self.batch_dim, "batch")
        return f"{self.name}: {self.dtype} [{', '.join(dims)}]"


@dataclasses.dataclass(frozen=True)
class IOSpec:
    """Inputs and outputs of an exported model: flat tensors in the runtime's order.

    ``kind`` is the structure of the inputs: one tensor, a tuple (positional) or a dict (keywords of forward).
    ``output_tree`` is that of the torch module's outputs, from :func:`describe_tree`. ``batch`` is the fixed batch
    size, or None for a dynamic one.
    """

    kind: Literal["tensor", "tuple", "dict"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_tree: Mapping[str, Any]
    batch: int | None = None

    @property
    def dynamic_batch(self) -> bool:
        """True if any batch size runs."""
        return self.batch is None

    @property
    def open_dims(self) -> list[dict[int, str]]:
        """Per input, the named dynamic dimensions besides the batch (dimension 0)."""
        return [{dim: name for dim, name in enumerate(spec.axes, 1) if name} for spec in self.inputs]

    @property
    def axes(self) -> tuple[str, ...]:
        """Unique names of the dynamic dimensions besides the batch."""
        return tuple(dict.fromkeys(name for dims in self.open_dims for name in dims.values()))

    @property
    def moves_batch(self) -> bool:
        """True if an output has the batch in another dimension than the first."""
        return any(spec.batch_dim for spec in self.outputs)

    def batch_first(self, outputs: Sequence[Any]) -> list[Any]:
        """Return the runtime's outputs with the batch moved to the first dimension."""
        pairs = zip(self.outputs, outputs, strict=True)
        return [np.moveaxis(array, spec.batch_dim, 0) if spec.batch_dim else array for spec, array in pairs]

    def as_declared(self, outputs: Sequence[Any]) -> list[Any]:
        """Return outputs with the batch in the declared dimension: the inverse of :meth:`batch_first`."""
        pairs = zip(self.outputs, outputs, strict=True)
        return [np.moveaxis(array, 0, spec.batch_dim) if spec.batch_dim else array for spec, array in pairs]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(spec.name for spec in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``io.json``."""
        return {
            "kind": self.kind,
            "inputs": [dataclasses.asdict(spec) for spec in self.inputs],
            "outputs": [dataclasses.asdict(spec) for spec in self.outputs],
            "output_tree": self.output_tree,
            "dynamic_batch": self.dynamic_batch,
            "batch": self.batch,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IOSpec:
        """Build from the content of ``io.json``; ArtifactError if it is not valid."""
        if values["kind"] not in ("tensor", "tuple", "dict"):
            raise ArtifactError(f"The kind of the inputs must be tensor, tuple or dict, got {given(values['kind'])}.")
        return cls(
            kind=values["kind"],
            inputs=tuple(_tensor_spec(v) for v in values["inputs"]),
            outputs=tuple(_tensor_spec(v) for v in values["outputs"]),
            output_tree=values["output_tree"],
            batch=_size("The batch", values["batch"]),
        )

    @classmethod
    def read(cls, path: str | Path) -> IOSpec:
        """Read ``io.json``; ArtifactError if it is missing or not valid."""
        try:
            io = cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
            tree_builder(io.output_tree)(io.outputs)
            kinds = [np.dtype(spec.dtype).kind for spec in (*io.inputs, *io.outputs)]
            if not io.inputs or not io.outputs or not set(kinds) <= set("biufc"):
                raise ArtifactError("one of them is not an array")
        except (ArtifactError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error if isinstance(error, ArtifactError) else repr(error)).rstrip(".")
            raise ArtifactError(f"{path} does not describe a model's inputs and outputs: {reason}.") from error
        return io

    def describe_inputs(self) -> str:
        """Return a description of the expected inputs, for error messages."""
        inner = "; ".join(spec.describe() for spec in self.inputs)
        return {"tensor": inner, "tuple": f"a tuple ({inner})", "dict": f"a dict {{{inner}}}"}[self.kind]


def _tensor_spec(values: Mapping[str, Any]) -> TensorSpec:
    name, dtype = (
        require_line(f"The {key} of a tensor", values[key], error=ArtifactError) for key in ("name", "dtype")
    )
    shape = tuple(_size(f"A dimension of {name!r}", size) for size in values["shape"])
    axes = tuple(
        None if axis is None else require_line(f"An axis of {name!r}", axis, error=ArtifactError)
        for axis in values.get("axes", ())
    )
    if axes and len(axes) != len(shape):
        raise ArtifactError(f"{name!r} has {len(shape)} dimensions, but {len(axes)} names.")
    batch_dim = _size("The batch dimension", values.get("batch_dim", 0))
    return TensorSpec(name, dtype, shape, axes, batch_dim, _size(f"The table size of {name!r}", values.get("below")))


def _size(what: str, value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31):
        raise ArtifactError(f"{what} must be a whole number of at least 0 or None, got {given(value)}.")
    return value


def input_kind(inputs: Tree) -> Literal["tensor", "tuple", "dict"]:
    """Return the structure of a task's inputs."""
    if isinstance(inputs, Mapping):
        return "dict"
    return "tuple" if isinstance(inputs, tuple | list) else "tensor"


def input_leaves(inputs: Tree) -> list[Any]:
    """Return the tensors of a task's inputs in order."""
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple | list) else [inputs]


def rebuild_inputs(kind: str, names: Sequence[str], values: Sequence[Any]) -> Tree:
    """Return flat tensors in a task's input structure: the inverse of :func:`input_leaves`."""
    if kind == "dict":
        return dict(zip(names, values, strict=True))
    return tuple(values) if kind == "tuple" else values[0]


def describe_tree(tree: Tree, is_leaf: Callable[[Any], bool]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Return the JSON form of an output structure, and its named leaves.

    A leaf becomes ``{"leaf": index}``. Mappings other than dicts (outputs of transformers) become dicts with
    attributes. Raises TypeError if the tree holds anything but leaves, None, mappings, tuples and lists.
    """
    leaves: list[tuple[str, Any]] = []

    def walk(node: Any, name: str) -> dict[str, Any]:
        if is_leaf(node):
            leaves.append((name or "output", node))
            return {"leaf": len(leaves) - 1}
        if node is None:
            return {"none": True}
        if isinstance(node, Mapping):
            kind = "dict" if type(node) is dict else "attributes"
            return {kind: {str(k): walk(v, _join(name, str(k))) for k, v in node.items()}}
        if isinstance(node, tuple) and (names := getattr(node, "_fields", None)):
            fields = {key: walk(value, _join(name, key)) for key, value in zip(names, node, strict=True)}
            return {"named": {"name": type(node).__name__, "fields": fields}}
        if isinstance(node, tuple | list):
            items = [walk(v, _join(name or "output", str(i))) for i, v in enumerate(node)]
            return {"tuple" if isinstance(node, tuple) else "list": items}
        raise TypeError(f"{name or 'the output'} is a {type(node).__name__}, not a tensor, tuple, list or dict")

    return walk(tree, ""), leaves


def _join(name: str, part: str) -> str:
    return f"{name}_{part}" if name else part


def tree_children(description: Mapping[str, Any]) -> list[tuple[Any, Mapping[str, Any]]]:
    """Return the children of a described container, each with its key or index."""
    ((kind, value),) = description.items()
    if kind in ("dict", "attributes"):
        return list(value.items())
    return list(enumerate(value["fields"].values() if kind == "named" else value))


def tree_builder(description: Mapping[str, Any]) -> Callable[[Sequence[Any]], Tree]:
    """Return a function that puts flat leaves into a structure from :func:`describe_tree`."""
    ((kind, value),) = description.items()
    if kind == "leaf":
        index = int(value)
        if index < 0:
            raise ArtifactError(f"The index of an output must be at least 0, got {index}.")
        return lambda leaves: leaves[index]
    if kind == "none":
        return lambda leaves: None
    if kind == "dict":
        members = [(key, tree_builder(child)) for key, child in value.items()]
        return lambda leaves: {key: build(leaves) for key, build in members}
    if kind == "attributes":
        build_dict = tree_builder({"dict": value})
        return lambda leaves: AttributeDict(build_dict(leaves))
    if kind == "named":
        made = collections.namedtuple(value["name"], value["fields"])  # type: ignore[misc]
        parts = [tree_builder(child) for child in value["fields"].values()]
        return lambda leaves: made(*(build(leaves) for build in parts))
    if kind in ("tuple", "list"):
        container: Callable[[Any], Any] = tuple if kind == "tuple" else list
        items = [tree_builder(child) for child in value]
        return lambda leaves: container(build(leaves) for build in items)
    raise ArtifactError(
        f"Unknown node {given(kind)} in an output structure. Allowed: attributes, dict, leaf, list, named, none, tuple."
    )
