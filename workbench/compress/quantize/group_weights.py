"""Weights rounded in groups: a scale for each run of inputs of an output channel, not one for the whole channel."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.torchao_import import quiet_torchao
from workbench.compress.quantize.observers import least_square_range, rounded, scale_and_zero

with quiet_torchao():
    from torchao.quantization.pt2e.observer import ObserverBase


def group_length(row: int, group_size: int) -> int:
    """Return the length of a group: ``group_size``, or the whole ``row`` where that is no multiple of it."""
    return group_size if row % group_size == 0 else row


class GroupObserver(ObserverBase):  # type: ignore[misc]
    """Round a weight ``[out, ...]`` in groups of ``group_size`` values of an output channel.

    In the graph the integers stand as ``[out * groups, group_size]`` with a scale per row, dequantized and then
    viewed in the weight's own shape: operators that torch and every exporter know.
    """

    def __init__(
        self,
        *,
        dtype: torch.dtype,
        quant_min: int,
        quant_max: int,
        qscheme: torch.qscheme,
        group_size: int,
        least_square: bool,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype=dtype, is_dynamic=is_dynamic)
        self.qscheme, self.symmetric = qscheme, qscheme == torch.per_channel_symmetric
        self.group_size, self.least_square = group_size, least_square
        self.levels = (quant_min, quant_max)
        self.shape: torch.Size | None = None
        self.rows = torch.empty(0)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Keep the weight as it is now."""
        self.shape = input.shape
        self.rows = input.detach().reshape(-1, group_length(input[0].numel(), self.group_size))
        return input

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a scale and a zero point for each group."""
        if self.least_square:
            low, high = least_square_range(self.rows, self.levels, symmetric=self.symmetric)
        else:
            low, high = self.rows.amin(1), self.rows.amax(1)
        return scale_and_zero(low, high, self.levels, symmetric=self.symmetric)

    def convert(self, model: GraphModule, observer_node: Node) -> None:
        """Put the integers with their dequantization in the place of the observed weight."""
        if self.shape is None:
            raise RuntimeError(f"{observer_node} was converted before it saw its weight")
        scale, zero = self.calculate_qparams()
        integers = torch.round(rounded(self.rows, scale[:, None], zero[:, None], self.levels) / scale[:, None])
        values = {
            "integers": (integers + zero[:, None]).to(self.dtype),
            "scale": scale,
            "zero": zero.to(torch.int64),
        }
        with model.graph.inserting_before(observer_node):
            nodes = [_buffer(model, f"{observer_node.name}_{word}", value) for word, value in values.items()]
            flat = model.graph.call_function(
                torch.ops.quantized_decomposed.dequantize_per_channel.default, (*nodes, 0, *self.levels, self.dtype)
            )
            whole = model.graph.call_function(torch.ops.aten.view.default, (flat, list(self.shape)))
        observer_node.replace_all_uses_with(whole)
        model.graph.erase_node(observer_node)


def _buffer(model: GraphModule, name: str, value: torch.Tensor) -> Node:
    model.register_buffer(name, value)
    return model.graph.get_attr(name)
