"""Dependency graph of torch-pruning 1.6, corrected for models that it misreads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch_pruning
from torch import nn
from torch_pruning.dependency import Dependency, Group, graph as dependency_graph, index_mapping, shape_infer
from torch_pruning.dependency.node import Node
from torch_pruning.ops import OPTYPE

_LEAST_ENTRIES, _ENTRIES_EACH, _MOST_CHANNELS = 2000, 20, 300_000
"""Limits of a group: entries, entries per node, and channels of an entry."""


@contextlib.contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Raise IndexError if a group has more entries: misread groups may grow without end."""

    class Bounded(Group):  # type: ignore[misc]
        def add_dep(self, dep: Any, idxs: Any) -> None:
            if len(self) >= most or len(idxs) > _MOST_CHANNELS:
                raise IndexError("the channels of this group cannot be followed")
            super().add_dep(dep, idxs)

    dependency_graph.Group = Bounded
    try:
        yield
    finally:
        dependency_graph.Group = Group


class ChannelGraph(torch_pruning.DependencyGraph):  # type: ignore[misc]
    """A dependency graph in which channels pass unchanged through operations that torch-pruning misreads.

    Every cut is verified afterwards.
    """

    def _build_dependency(self, module2node: dict[Any, Any]) -> None:
        super()._build_dependency(module2node)
        shape_infer.init_shape_information(self)
        for node in module2node.values():
            if node.type == OPTYPE.CONCAT and self._is_unreadable(node):
                node.type = OPTYPE.ELEMENTWISE
            elif node.type == OPTYPE.CONCAT and not (self._joins_channels(node) or self._add_constant(node)):
                # The halves of attention heads that rotary embeddings swap are not channels.
                node.enable_index_mapping = False
            elif node.type == OPTYPE.RESHAPE and self._stumbles(node):
                node.type = OPTYPE.ELEMENTWISE

    def get_pruning_group(self, module: Any, pruning_fn: Any, idxs: Any) -> Any:
        """Return the group, or one of the root alone (``is_lost``) if its channels cannot be followed."""
        try:
            with _bounded(max(_LEAST_ENTRIES, _ENTRIES_EACH * len(self.module2node))):
                return super().get_pruning_group(module, pruning_fn, idxs)
        except (IndexError, ZeroDivisionError):  # a split inside a recurrent layer
            node, group = self.module2node[module], Group()
            group.add_dep(Dependency(pruning_fn, pruning_fn, source=node, target=node), list(idxs))
            group.is_lost = True
            return group

    def _is_unreadable(self, node: Any) -> bool:
        """Return whether torch-pruning cannot count the joined channels, such as a part of a split used twice."""
        try:
            counts = [shape_infer.infer_channels_between(self, source, node) for source in node.inputs]
        except IndexError:
            return True
        return None in counts and shape_infer.infer_in_channels_recursively(self, node, recursive_depth=[0]) is not None

    def _joins_channels(self, node: Any) -> bool:
        """Return whether the result of a concatenation is as wide as its inputs together."""
        if not getattr(node.grad_fn, "_input_metadata", None) or getattr(node.grad_fn, "_saved_dim", None) is None:
            return True
        counts = [shape_infer.infer_channels_between(self, source, node) for source in node.inputs]
        return None in counts or sum(counts) == self._width(node)

    def _add_constant(self, node: Any) -> bool:
        """Add the model's input to a concatenation, where torch-pruning omits it; return whether the widths match."""
        joined = [entry[0] for entry in getattr(node.grad_fn, "next_functions", ())]
        missing = [place for place, function in enumerate(joined) if function is None]
        counts = [shape_infer.infer_channels_between(self, source, node) for source in node.inputs]
        if len(missing) != 1 or None in counts or len(counts) + 1 != len(joined):
            return False
        stand_in = Node(nn.Linear(1, self._width(node) - sum(counts)), None, "the model's input")
        node.inputs.insert(missing[0], stand_in)
        return True

    def _width(self, node: Any) -> int:
        dim, shape = node.grad_fn._saved_dim, node.grad_fn._input_metadata[0].shape
        # a negative dimension is stored as unsigned 64-bit
        return int(shape[dim if dim < len(shape) else dim - 2**64])

    def _stumbles(self, node: Any) -> bool:
        """Return whether torch-pruning divides by zero: a split after a channel shuffle (ShuffleNet)."""
        try:
            index_mapping.update_reshape_index_mapping(self, node)
        except ZeroDivisionError:
            return True
        return False
