"""torch-pruning's graph of which channels belong together, with care where it misreads a model."""

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
"""Entries of a group, at least and for each node, and channels of an entry, from which on its channels are lost."""


@contextlib.contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Raise IndexError once a group has more entries.

    Numbers of channels that torch-pruning misreads may grow for ever, as those of heads behind a recurrent layer do.
    """

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
    """A dependency graph that lets channels pass straight through what torch-pruning 1.6 misreads.

    Whether they really do shows in the trial of every cut.
    """

    def _build_dependency(self, module2node: dict[Any, Any]) -> None:
        super()._build_dependency(module2node)
        shape_infer.init_shape_information(self)
        for node in module2node.values():
            if node.type == OPTYPE.CONCAT and self._is_unreadable(node):
                node.type = OPTYPE.ELEMENTWISE
            elif node.type == OPTYPE.CONCAT and not (self._joins_channels(node) or self._add_constant(node)):
                # Halves of each attention head, as rotary positions swap them: taken for channels, their numbers would
                # grow without end.
                node.enable_index_mapping = False
            elif node.type == OPTYPE.RESHAPE and self._stumbles(node):
                node.type = OPTYPE.ELEMENTWISE

    def get_pruning_group(self, module: Any, pruning_fn: Any, idxs: Any) -> Any:
        """Return the group, or where its channels cannot be followed (``is_lost``) one of the root alone."""
        try:
            with _bounded(max(_LEAST_ENTRIES, _ENTRIES_EACH * len(self.module2node))):
                return super().get_pruning_group(module, pruning_fn, idxs)
        except (IndexError, ZeroDivisionError):  # numbers of channels that a split inside a recurrent layer lacks
            node, group = self.module2node[module], Group()
            group.add_dep(Dependency(pruning_fn, pruning_fn, source=node, target=node), list(idxs))
            group.is_lost = True
            return group

    def _is_unreadable(self, node: Any) -> bool:
        """Return whether torch-pruning fails at counting what is joined.

        It counts parts that a split does not have where one is joined twice, and adds up what it does not know, such as
        the states of a recurrent layer.
        """
        try:
            counts = [shape_infer.infer_channels_between(self, source, node) for source in node.inputs]
        except IndexError:
            return True
        return None in counts and shape_infer.infer_in_channels_recursively(self, node, recursive_depth=[0]) is not None

    def _joins_channels(self, node: Any) -> bool:
        """Return whether the result is as wide as the channels of what a concatenation joins."""
        if not getattr(node.grad_fn, "_input_metadata", None) or getattr(node.grad_fn, "_saved_dim", None) is None:
            return True
        counts = [shape_infer.infer_channels_between(self, source, node) for source in node.inputs]
        return None in counts or sum(counts) == self._width(node)

    def _add_constant(self, node: Any) -> bool:
        """Put a stand-in among what a concatenation joins for the model's own input, which torch-pruning leaves out.

        Return whether the result is then as wide as the channels of what is joined.
        """
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
        # a negative dimension is saved as an unsigned number of 64 bits
        return int(shape[dim if dim < len(shape) else dim - 2**64])

    def _stumbles(self, node: Any) -> bool:
        """Return whether torch-pruning divides by zero: channels that are split after a shuffle (ShuffleNet)."""
        try:
            index_mapping.update_reshape_index_mapping(self, node)
        except ZeroDivisionError:
            return True
        return False
