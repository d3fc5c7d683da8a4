"""Capture a module as a graph that quantization can change: dynamic batch, batch norm folded; and run it by node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node

from workbench.core.errors import ExportError
from workbench.core.quiet import quiet_torchao
from workbench.export.capture import dynamic_arguments, export_program, reason_of
from workbench.tasks.axes import OpenDims
from workbench.tasks.module import Shape, plain_outputs
from workbench.tasks.trees import Tree, call_model, leaves


def aten(*names: str) -> frozenset[Any]:
    """Return ATen operators by name, like ``"view.default"``."""
    return frozenset(attrgetter(name)(torch.ops.aten) for name in names)


CONVOLUTIONS = aten(*(f"conv{n}d.{overload}" for n in (1, 2, 3) for overload in ("default", "padding")))
LINEAR = torch.ops.aten.linear.default
WEIGHTED = CONVOLUTIONS | {LINEAR}
"""Operators that multiply by a weight."""

_aten = torch.ops.aten
_BATCH_NORM = _aten.batch_norm.default
_TRANSPOSED = frozenset({_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input})
_FOLDS = WEIGHTED | _TRANSPOSED
_TOLERANCE = 1e-3
Visit = Callable[[Node, tuple[Any, ...], Any], Any]
"""``visit(node, arguments, value)`` returns the value for the following nodes."""


def capture(module: nn.Module, example: Tree, *, dims: OpenDims = ()) -> GraphModule:
    """Return the graph of ``module`` in eval mode with a dynamic batch.

    ``dims``, the open dimensions of each input, are dynamic too if the module allows it. ExportError if torch.export
    cannot follow the module, or only for one fixed batch size, or the graph gives other outputs.
    """
    if any(dims):
        with contextlib.suppress(ExportError):  # captured_sizes then returns fixed sizes
            return _captured(module, example, dims)
    return _captured(module, example, ())


def captured_sizes(graph: GraphModule, example: Tree, dims: OpenDims) -> list[Shape]:
    """Return the shape of one sample of each input of a captured graph, with None for dynamic sizes."""
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    kept = any(not isinstance(size, int) for node in places for size in node.meta["val"].shape[1:])
    parts = leaves(example)
    pairs = zip(parts, dims if kept and dims else [{}] * len(parts), strict=True)
    return [tuple(None if dim in free else size for dim, size in enumerate(leaf.shape[1:], 1)) for leaf, free in pairs]


def _captured(module: nn.Module, example: Tree, dims: OpenDims) -> GraphModule:
    try:
        with plain_outputs(module):
            program = export_program(module.eval(), *dynamic_arguments(example, dims))
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be captured as a graph with a dynamic batch, which Quantize needs: "
            + reason_of(error, otherwise="leave Quantize out of the recipe")
        ) from error
    # The task was checked already; guards cost time on every call.
    graph = program.module(check_guards=False)
    # Checks of dtypes come from .to(...) in forward, and training may run in bfloat16.
    for node in list(graph.graph.nodes):
        if node.target is _aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
    _spell_out(graph, unfoldable=True)
    _fold_batch_norm(graph)
    _spell_out(graph, unfoldable=False)
    _check_same(graph, module, example)
    return graph


def _fold_batch_norm(graph: GraphModule) -> None:
    with quiet_torchao():
        from torchao.quantization.pt2e.utils import _fuse_conv_bn_, _fuse_linear_bn_

        _fuse_conv_bn_(graph)
        _fuse_linear_bn_(graph)


def _spell_out(graph: GraphModule, *, unfoldable: bool) -> None:
    """Replace batch norms by a product and a sum: all, or with ``unfoldable`` those that torchao folds wrongly.

    torchao ignores other readers of the output or weight before a norm (skip connections of pre-activation networks),
    folds wrongly into grouped transposed convolutions, and fails if the weight is computed in forward. Norms left over
    would make it search for training patterns for half a minute.
    """
    for norm in list(graph.graph.nodes):
        if norm.target is not _BATCH_NORM or norm.args[3] is None or norm.args[5]:
            continue
        source = norm.args[0]
        if unfoldable and (source.target not in _FOLDS or _can_be_folded(source)):
            continue
        scale, shift = _affine(graph, norm)
        with graph.graph.inserting_before(norm):
            for target, value, word in ((_aten.mul.Tensor, scale, "scale"), (_aten.add.Tensor, shift, "shift")):
                name = f"{norm.name}_{word}"
                graph.register_parameter(name, torch.nn.Parameter(value))
                source = graph.graph.call_function(target, (source, graph.graph.get_attr(name)))
                source.meta = dict(norm.meta)
        norm.replace_all_uses_with(source)
        graph.graph.erase_node(norm)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _can_be_folded(source: Node) -> bool:
    """Return whether torchao folds a norm into this convolution or Linear correctly."""
    weight, bias = source.args[1], source.args[2] if len(source.args) > 2 else None
    stored = all(part is None or (isinstance(part, Node) and part.op == "get_attr") for part in (weight, bias))
    alone = len(source.users) == 1 and isinstance(weight, Node) and len(weight.users) == 1
    groups: Any = source.args[6] if source.target in _TRANSPOSED and len(source.args) > 6 else 1
    return stored and alone and int(groups) == 1


def _affine(graph: GraphModule, norm: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and shift of a batch norm, shaped to broadcast over its input ``[n, c, ...]``."""
    tensors: Any = [None if node is None else attrgetter(str(node.target))(graph).detach() for node in norm.args[1:5]]  # type: ignore[union-attr]
    weight, bias, mean, variance = tensors
    scale: torch.Tensor = (variance + norm.args[7]).rsqrt() * (1.0 if weight is None else weight)
    shift: torch.Tensor = (0.0 if bias is None else bias) - mean * scale
    shape = [-1] + [1] * (norm.meta["val"].ndim - 2)
    return scale.reshape(shape), shift.reshape(shape)


def _check_same(graph: GraphModule, module: nn.Module, example: Tree) -> None:
    """Raise ExportError if the graph computes something else than the module."""
    with torch.inference_mode():
        pairs = zip(leaves(call_model(graph, example)), leaves(call_model(module, example)), strict=True)
        for mine, theirs in pairs:
            apart = float((mine.double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
            if not apart <= _TOLERANCE * max(1.0, float(theirs.double().abs().max()) if theirs.numel() else 0.0):
                raise ExportError(
                    f"The captured graph of {type(module).__name__} must compute the module's outputs, but differs by "
                    f"up to {apart:.3g}. A forward that is random or changes the module's state cannot be quantized; "
                    "leave Quantize out of the recipe."
                )


class _Walker(Interpreter):
    def __init__(self, graph: GraphModule, visit: Visit) -> None:
        super().__init__(graph)
        self._visit = visit

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op != "call_function":
            return value
        return self._visit(n, self.fetch_args_kwargs_from_env(n)[0], value)


def run_graph(graph: GraphModule, inputs: Tree, visit: Visit) -> list[torch.Tensor]:
    """Run ``graph`` on a batch with ``visit`` after every function; return the output tensors."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
    if isinstance(inputs, Mapping) and set(names) == set(inputs):
        flat = [inputs[name] for name in names]
    else:
        flat = leaves(inputs)
    with torch.no_grad():
        outputs = _Walker(graph, visit).run(*flat, enable_io_processing=False)
    return [leaf for leaf in leaves(outputs) if isinstance(leaf, torch.Tensor)]


def stored(graph: GraphModule, node: Any) -> torch.Tensor | None:
    """Return the tensor that a ``get_attr`` node reads, None for another node."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    tensor: torch.Tensor = attrgetter(str(node.target))(graph)
    return tensor


def replace_stored(graph: GraphModule, node: Node, value: torch.Tensor) -> None:
    """Replace the tensor that ``node`` reads, which a module may share, by one of the graph's own."""
    old = stored(graph, node)
    if old is None:
        raise TypeError(f"{node} reads no tensor of the graph")
    path, _, name = str(node.target).rpartition(".")
    value = value.detach()
    new = torch.nn.Parameter(value, old.requires_grad) if isinstance(old, torch.nn.Parameter) else value
    setattr(graph.get_submodule(path), name, new)


def readers(graph: GraphModule, node: Node) -> int:
    """Return the number of operators that read the tensor of ``node``, through any node."""
    return sum(
        len(other.users) for other in graph.graph.nodes if other.op == "get_attr" and other.target == node.target
    )
