"""Count operations, weights and activations of each layer while a module runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from workbench.compress.model_ops import open_recurrence, removing, without_fast_path
from workbench.export.capture import layer_of_node
from workbench.tasks.trees import batch_size, call_model, leaves

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

WHOLE = "(model)"
"""Layer name of the operators in the model's own ``forward``."""


@dataclass(frozen=True)
class LayerWork:
    """The matrix products and convolutions of one layer.

    Attributes
    ----------
    layer : str
        The module's name.
    flop : int
        Operations per sample, two for a multiply-accumulate.
    weights : int
        Stored numbers that it reads once per call.
    activations : int
        Numbers per sample that it reads and writes, each once, as in a runtime that fuses all elementwise operators.
    channels : (int, int) or None
        Channels or features in and out; None without stored weights.
    """

    layer: str
    flop: int
    weights: int
    activations: int
    channels: tuple[int, int] | None = None

    def intensity(self, batch_size: int, bytes_each: float) -> float:
        """Return operations per byte for numbers of ``bytes_each`` bytes.

        Examples
        --------
        >>> LayerWork("fc", flop=200, weights=100, activations=20).intensity(1, 4.0)
        0.4166666666666667
        """
        return self.flop * batch_size / self.bytes_moved(batch_size, bytes_each)

    def bytes_moved(self, batch_size: int, bytes_each: float) -> float:
        """Return the minimum bytes that one call moves: weights once, activations for every sample."""
        return (self.weights + self.activations * batch_size) * bytes_each


def layer_work(variant: Variant) -> tuple[LayerWork, ...]:
    """Return the work of layers with matrix products or convolutions, in the order of computation.

    Counted on the dispatcher level while the module runs on two samples, so functional calls count too. Empty for a
    module that does not compute with torch.

    Examples
    --------
    >>> sum(layer.flop for layer in layer_work(variant)) == 2 * variant.macs  # doctest: +SKIP
    True
    """
    module, inputs = variant.module, variant.task.examples(2)
    counter = _Counter(module, batch_size(inputs))
    # the fast path and fused attention without gradients would hide their products
    with without_fast_path(), open_recurrence(module), torch.enable_grad(), counter:
        if isinstance(module, fx.GraphModule):
            _Interpreter(module, counter).run(*leaves(inputs), enable_io_processing=False)
        else:
            with layer_hooks(module, counter.inside.append, counter.leave):
                call_model(module, inputs)
    return tuple(counter.work.values())


@contextlib.contextmanager
def layer_hooks(module: nn.Module, enter: Any, leave: Any, *, whole: bool = False) -> Iterator[None]:
    """Call ``enter(name)`` before and ``leave(name, output)`` after each submodule runs, within the block.

    With ``whole`` also around the module itself, whose name is empty.
    """
    handles = []
    for name, part in module.named_modules():
        if not name and not whole:
            continue
        handles.append(part.register_forward_pre_hook(lambda _m, _i, name=name: enter(name)))
        handles.append(part.register_forward_hook(lambda _m, _i, out, name=name: leave(name, out), always_call=False))
    with removing(handles):
        yield


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the products of the running layer; an operand derived from stored tensors only counts as a weight."""

    def __init__(self, module: nn.Module, samples: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside = [WHOLE]
        self.work: dict[str, LayerWork] = {}
        self._samples = samples
        self._kept: list[Tensor] = [*module.parameters(), *module.buffers()]
        self._stored = {_place(tensor) for tensor in self._kept}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [one for one in _tensors((args, kwargs)) if one.numel()]
        stored = [one for one in given if _place(one) in self._stored]
        if given and len(stored) == len(given):
            for tensor in _tensors(out):
                self._stored.add(_place(tensor))
                self._kept.append(tensor)  # otherwise an activation may get its memory
        count = _FLOP.get(func._overloadpacket)
        if count is not None:
            layer, samples, weights = self.inside[-1], self._samples, _numbers(stored)
            flop = int(count(*args, **kwargs, out_val=out)) // samples
            moved = (_numbers(given) - weights + _numbers(_tensors(out))) // samples
            last = self.work.get(layer) or LayerWork(layer, 0, 0, 0, _channels(stored, args))
            self.work[layer] = replace(
                last, flop=last.flop + flop, weights=last.weights + weights, activations=last.activations + moved
            )
        return out

    def leave(self, _name: str, _output: Any) -> None:
        """Return to the layer around the running one."""
        self.inside.pop()


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


# torch's counter lacks the fused attention of the CPU
_FLOP = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def _channels(stored: list[Tensor], args: Any) -> tuple[int, int] | None:
    weight = next((tensor for tensor in stored if tensor.ndim > 1), None)
    if weight is None:
        return None
    if weight.ndim == 2:  # [in, out]
        return weight.shape[0], weight.shape[1]
    if len(args) < 9:
        return None
    transposed, groups = bool(args[6]), int(args[8])
    ends = (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, weight.shape[0])
    return int(ends[0]), int(ends[1])


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _numbers(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


class _Interpreter(fx.Interpreter):
    """Runs a captured graph node by node, to count each product for its original module."""

    def __init__(self, module: fx.GraphModule, counter: _Counter) -> None:
        super().__init__(module)
        self._counter = counter

    def run_node(self, n: fx.Node) -> Any:
        self._counter.inside.append(layer_of_node(n) or WHOLE)
        try:
            return super().run_node(n)
        finally:
            self._counter.inside.pop()


def module_names(module: nn.Module) -> frozenset[str]:
    """Return the names of all layers of a module; for a captured graph, those of the original module."""
    if isinstance(module, fx.GraphModule):
        return frozenset(filter(None, map(layer_of_node, module.graph.nodes)))
    return frozenset(name for name, _ in module.named_modules() if name)
