"""Find the sizes of the tables in which a graph looks its integer inputs up, as tokens in an embedding. Without torch.

Runtimes disagree on others: torch refuses them, ONNX Runtime counts negative ones from the end, and OpenVINO answers
with whatever lies there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from workbench.export.io import IOSpec

_SAME_SHAPE = frozenset({"DequantizeLinear", "QuantizeLinear", "Cast", "Identity"})
_SAME_VALUES = frozenset(
    {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand"}
)


def with_table_sizes(io: IOSpec, graph: Any) -> IOSpec:
    """Return the io description with ``below`` for each input that an ONNX graph takes as places in a table.

    Only tables of two and more dimensions count: from a list of numbers, places may be taken from the end on purpose.
    """
    sizes: dict[str, int] = {}
    for name, size in _looked_up(graph):
        sizes[name] = min(size, sizes.get(name, size))
    inputs = tuple(dataclasses.replace(spec, below=sizes.get(spec.name)) for spec in io.inputs)
    return dataclasses.replace(io, inputs=inputs)


def _looked_up(graph: Any) -> Iterator[tuple[str, int]]:
    """Yield the name of an input and the size of a table that it is looked up in."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    origins = {value.name: value.name for value in graph.input if value.name not in shapes}
    for node in graph.node:
        if not node.input or not node.output:  # a file from elsewhere may hold anything; its runtime refuses it
            continue
        first = node.input[0]
        if node.op_type in _SAME_SHAPE and first in shapes:
            shapes[node.output[0]] = shapes[first]
        if node.op_type in _SAME_VALUES and first in origins:
            origins[node.output[0]] = origins[first]
        table = shapes.get(first, ())
        if node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in origins and len(table) > 1:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            if -len(table) <= axis < len(table):
                yield origins[node.input[1]], table[axis]
