"""Serialize a captured graph as plain data; reading it runs no code.

torch's format for exported programs can run code while it is read. Here only computing operators of torch are called,
only with plain values, and every name in the graph's generated code is an identifier.
"""

from __future__ import annotations

import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from workbench.artifact.structure import StructureError
from workbench.core.checks import short_repr
from workbench.core.errors import ArtifactError, first_line
from workbench.export.capture import layer_of_node
from workbench.export.io import IOSpec, rebuild_inputs, tree_builder
from workbench.tasks.trees import to_builtins

_PYTHON: dict[str, Callable[..., Any]] = {
    f"{function.__module__.lstrip('_')}.{function.__name__}": function
    for function in (
        *(operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv),
        *(operator.mod, operator.neg, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
        *(math.ceil, math.floor, math.trunc, torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float),
    )
}
"""Python functions on sizes."""
_NAMESPACES = ("aten", "quantized_decomposed", "torchao")
_OPERATOR = re.compile(rf"({'|'.join(_NAMESPACES)})\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)", re.ASCII)
_PRIVATE = frozenset(
    {
        *("_assert_scalar", "_assert_tensor_metadata", "_log_softmax", "_native_batch_norm_legit_no_training"),
        *("_safe_softmax", "_softmax", "_to_copy", "_unsafe_view", "_weight_norm", "_weight_norm_interface"),
    }
)
"""Allowed operators with a leading underscore."""
_REFUSED = re.compile("^_|unsafe_|_unsafe|backward|from_file|^set_$|^resize|^save$|storage", re.ASCII)
_ARGUMENTS = frozenset({"filename", "unsafe", "out"})
_TENSOR = re.compile(r"\w+(\.\w+)*", re.ASCII)
_LAYER = re.compile(r"[\w.]+", re.ASCII)
_VALUES: dict[str, type] = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def describe_graph(graph: fx.GraphModule) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Return a graph's nodes as plain values, and its tensors by name.

    Raises StructureError if a node is not a call of an operator that :func:`rebuild_graph` allows.
    """
    nodes: list[dict[str, Any]] = []
    tensors: dict[str, torch.Tensor] = {}
    for node in graph.graph.nodes:
        entry: dict[str, Any] = {"op": node.op, "name": node.name}
        if node.op == "get_attr":
            value = attrgetter(node.target)(graph)
            if not isinstance(value, torch.Tensor) or not _TENSOR.fullmatch(node.target):
                raise StructureError(f"its graph holds {node.target!r}, which is not a tensor")
            tensors[node.target] = value.detach().cpu().contiguous().clone()
            entry |= {"target": node.target, "parameter": isinstance(value, nn.Parameter)}
        elif node.op == "call_function":
            entry |= {"target": _name_of(node.target), "layer": layer_of_node(node)}
            entry |= {"args": _plain(node.args), "kwargs": _plain(node.kwargs)}
        elif node.op == "output":
            entry |= {"args": _plain(node.args[0])}
        elif node.op != "placeholder":
            raise StructureError(f"its graph calls {node.target!r}, which is not an operator")
        nodes.append(entry)
    return nodes, tensors


def rebuild_graph(
    nodes: Sequence[Mapping[str, Any]], tensors: Mapping[str, torch.Tensor], io: IOSpec
) -> fx.GraphModule:
    """Return the module of a graph from :func:`describe_graph`, with inputs and outputs structured as in ``io``.

    Raises ArtifactError if it names anything but computing operators, or is not a complete graph.
    """
    try:
        return _rebuilt(nodes, tensors, io)
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"it is not a complete graph: {type(error).__name__}: {short_repr(first_line(error))}"
        ) from error


def _rebuilt(nodes: Sequence[Mapping[str, Any]], tensors: Mapping[str, torch.Tensor], io: IOSpec) -> fx.GraphModule:
    root, graph = nn.Module(), fx.Graph()
    rebuilt: dict[str, fx.Node] = {}
    for entry in nodes:
        kind = entry["op"]
        if kind == "placeholder":
            node = graph.placeholder(f"input_{len(rebuilt)}")
        elif kind == "get_attr":
            _add_tensor(root, entry["target"], tensors[entry["target"]], parameter=entry["parameter"] is True)
            node = graph.get_attr(entry["target"])
        elif kind == "call_function":
            args, kwargs = _from_plain(entry["args"], rebuilt), _from_plain(entry["kwargs"], rebuilt)
            node = graph.call_function(_function(entry["target"]), tuple(args), dict(kwargs))
            if _LAYER.fullmatch(entry["layer"]):
                node.meta["nn_module_stack"] = {"layer": (entry["layer"], "")}
        elif kind == "output":
            node = graph.output(tuple(_from_plain(entry["args"], rebuilt)))
        else:
            raise ArtifactError(f"its graph holds a node of the kind {short_repr(kind)}")
        rebuilt[str(entry["name"])] = node
    codegen = _codegen(io)
    outputs = nodes[-1]["args"] if nodes and nodes[-1]["op"] == "output" else ()
    if len(outputs) != codegen.pytree_info.out_spec.num_leaves:
        raise ArtifactError(f"it is not a complete graph: it has {len(outputs)} outputs")
    if sum(entry["op"] == "placeholder" for entry in nodes) != len(io.inputs):
        raise ArtifactError("it is not a complete graph: its inputs differ from io.json")
    graph.set_codegen(codegen)
    graph.lint()
    return fx.GraphModule(root, graph)


def _codegen(io: IOSpec) -> Any:
    """Return the code generator for the input and output structure of ``io``."""
    from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

    inputs = rebuild_inputs(io.kind, io.input_names, [0] * len(io.inputs))
    call = ((), inputs) if io.kind == "dict" else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    names = list(io.input_names) if io.kind == "dict" else [f"given_{place}" for place in range(len(io.inputs))]
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name) or name == "self":
            raise ArtifactError(f"{short_repr(name)} is not a valid argument name")
    outputs = to_builtins(tree_builder(io.output_tree)(range(len(io.outputs))))
    return _PyTreeCodeGen(_PyTreeInfo(names, pytree.tree_structure(call), pytree.tree_structure(outputs)))


def _add_tensor(root: nn.Module, target: object, tensor: torch.Tensor, *, parameter: bool) -> None:
    if not isinstance(target, str) or not _TENSOR.fullmatch(target):
        raise ArtifactError(f"{short_repr(target)} is not a valid tensor name")
    *path, name = target.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if name in root._parameters or name in root._buffers:
        return
    if parameter and (tensor.is_floating_point() or tensor.is_complex()):
        root.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    else:
        root.register_buffer(name, tensor)


def _name_of(target: Any) -> str:
    """Return the name under which :func:`_function` finds a function."""
    name = next((key for key, function in _PYTHON.items() if function is target), str(target))
    try:
        if _function(name) is target:
            return name
    except ArtifactError:
        pass
    raise StructureError(f"its graph calls {name}, which is not an operator that an artifact may call")


def _function(name: object) -> Callable[..., Any]:
    """Return the function of a name; ArtifactError unless it only computes."""
    if isinstance(name, str) and name in _PYTHON:
        return _PYTHON[name]
    parts = _OPERATOR.fullmatch(name) if isinstance(name, str) else None
    overload: Any = None
    if parts is not None and (parts[2] in _PRIVATE or not _REFUSED.search(parts[2])):
        packet = getattr(getattr(torch.ops, parts[1]), parts[2], None)
        overload = getattr(packet, parts[3], None)
    if not isinstance(overload, torch._ops.OpOverload) or _ARGUMENTS & {a.name for a in overload._schema.arguments}:
        raise ArtifactError(f"its graph calls {short_repr(name)}, which is not an operator that an artifact may call")
    return overload


def _plain(value: Any) -> Any:
    """Return an argument in JSON form."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {"dict": {str(key): _plain(part) for key, part in value.items()}}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for key, kind in _VALUES.items():
        if isinstance(value, kind):
            return {key: str(value).removeprefix("torch.")}
    raise StructureError(f"its graph holds a {type(value).__name__}, which is not a plain value")


def _from_plain(value: Any, rebuilt: Mapping[str, fx.Node]) -> Any:
    """Return an argument from its JSON form."""
    if isinstance(value, list):
        return [_from_plain(part, rebuilt) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return rebuilt[content]
    if kind == "dict":
        return {key: _from_plain(part, rebuilt) for key, part in content.items()}
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(content)
    constant = getattr(torch, content, None) if isinstance(content, str) and kind in _VALUES else None
    if constant is None or not isinstance(constant, _VALUES[kind]):
        raise ArtifactError(f"its graph holds {short_repr(value)}, which is not a plain value")
    return constant
