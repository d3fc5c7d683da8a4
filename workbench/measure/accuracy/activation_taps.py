"""Expose layer outputs of an ONNX file as additional graph outputs."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.files import TemporaryFolder
from workbench.engine.backends.base import ModelSource, require_onnx
from workbench.export.io import TensorSpec

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")
# operators allowed between a stored weight and its product
_UNPACKING = ("DequantizeLinear", "Transpose", "Reshape", "Cast", "Identity", "QuantizeLinear", "Unsqueeze", "Squeeze")
_OWNER = re.compile(r"^(?P<owner>.+)\.(weight|bias)([._].*)?$")


@dataclasses.dataclass(frozen=True)
class Point:
    """A layer of a graph; ``name`` is the module that owns weight or bias, None if the file lacks it.

    ``values`` are (operator, tensor) pairs of its outputs, the last one after quantization.
    """

    name: str | None
    op: str
    shape: tuple[int, ...]
    values: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer of both graphs, and the tensors to compare."""

    name: str
    op: str
    reference: str
    candidate: str


def weight_owners(module: Any) -> dict[str, str]:
    """Return the layer names of a torch module by digest of their weight, also transposed."""
    owners = {}
    for name, layer in module.named_modules():
        weight: Any = getattr(layer, "weight", None)
        if hasattr(weight, "detach") and weight.ndim > 1:
            array = weight.detach().cpu().numpy()
            owners.update({_digest(array): name, _digest(array.swapaxes(0, 1)): name})
    return owners


def layer_points(path: Path, owners: Mapping[str, str] | None = None) -> list[Point]:
    """Return the layers with stored weights, in the order of computation.

    ``owners`` maps digests of weights to layer names, for weights whose name was lost in the export.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    names = {
        tensor.name: owners[digest]
        for tensor in graph.initializer
        if owners and len(tensor.dims) > 1
        for digest in [_digest(onnx.numpy_helper.to_array(tensor))]
        if digest in owners
    }
    makers, users = links(graph)
    points = []
    for node in graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2:
            continue
        stored = _stored(node.input[1], makers, shapes)
        if stored is not None:
            points.append(_point(node, stored, names.get(stored), users, shapes))
    return points


def links(graph: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the node that computes each tensor of a graph, and the nodes that read it."""
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return makers, users


def owner_of(names: Sequence[str]) -> str | None:
    """Return the module that owns one of the stored tensors, by name.

    Examples
    --------
    >>> owner_of(["x", "block.conv.weight_nchwc"])
    'block.conv'
    """
    return next((match["owner"] for match in map(_OWNER.match, names) if match), None)


def align(reference: Sequence[Point], candidate: Sequence[Point]) -> tuple[list[Pair], dict[str, str]]:
    """Match the layers of two graphs; return the pairs, and the unmatched reference layers with reasons.

    Layers are matched by name. An integer weight may lose its name, so layers are matched by index if both graphs have
    the same kinds and sizes of layers in the same order.
    """
    in_order = len(reference) == len(candidate) and all(map(_alike, reference, candidate))
    by_name = {point.name: point for point in candidate if point.name is not None}
    pairs: list[Pair] = []
    lost: dict[str, str] = {}
    for place, point in enumerate(reference):
        name = point.name or f"{point.op} number {place + 1}"
        other = candidate[place] if in_order else by_name.get(point.name or "")
        if other is None:
            lost[name] = "the other graph lacks a layer of that name"
            continue
        pairs.append(Pair(name, point.op, *_common(point, other)))
    return pairs, lost


def tapped(source: ModelSource, values: Sequence[str]) -> ModelSource:
    """Return a copy of the model with ``values`` as additional outputs, in a file that is kept alive."""
    import onnx

    model = onnx.load(str(require_onnx(source, "debug_accuracy")))
    outputs = {value.name for value in model.graph.output}
    infos = {value.name: value for value in model.graph.value_info}
    added = [name for name in dict.fromkeys(values) if name not in outputs]
    for name in added:
        model.graph.output.append(infos.get(name) or onnx.helper.make_empty_tensor_value_info(name))
    folder = TemporaryFolder()
    path = folder.path / "model.onnx"
    onnx.save(model, str(path))
    specs = tuple(TensorSpec(name, "float32", ()) for name in added)
    io = dataclasses.replace(source.io, outputs=(*source.io.outputs, *specs))
    return dataclasses.replace(source, onnx_path=path, io=io, keep_alive=(folder, source.keep_alive))


def _stored(name: str, makers: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return the stored tensor that a value is unpacked from, or None for an activation."""
    while name not in shapes:
        maker = makers.get(name)
        if maker is None or maker.op_type not in _UNPACKING:
            return None
        name = maker.input[0]
    return name


def _point(
    node: Any, stored: str, owner: str | None, users: dict[str, list[Any]], shapes: dict[str, tuple[int, ...]]
) -> Point:
    values = [(node.op_type, node.output[0])]
    tensors = [stored, *node.input[2:]]
    bias = _only(users, node.output[0], ("Add",))
    if node.op_type == "MatMul" and bias is not None:
        others = [name for name in bias.input if name != node.output[0] and name in shapes]
        if others:
            tensors += others
            values[0] = (node.op_type, bias.output[0])
    activation = _only(users, values[-1][1], _ACTIVATIONS)
    if activation is not None:
        values.append((activation.op_type, activation.output[0]))
    rounding = _only(users, values[-1][1], ("QuantizeLinear",))
    if rounding is not None:
        back = [user for user in users.get(rounding.output[0], []) if user.op_type == "DequantizeLinear"]
        if back:
            values.append(("DequantizeLinear", back[0].output[0]))
    return Point(owner or owner_of(tensors), node.op_type, tuple(sorted(shapes[stored])), tuple(values))


def _digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _only(users: dict[str, list[Any]], name: str, kinds: tuple[str, ...]) -> Any:
    nodes = users.get(name, [])
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type in kinds else None


def _alike(a: Point, b: Point) -> bool:
    same_kind = a.op == b.op or {a.op, b.op} == {"Gemm", "MatMul"}
    return same_kind and a.shape == b.shape and (a.name is None or b.name is None or a.name == b.name)


def _common(reference: Point, candidate: Point) -> tuple[str, str]:
    """Return the last tensors after the same operators; the candidate's may be quantized too."""
    first, second = _unquantized(reference), _unquantized(candidate)
    both = zip(first[1:], second[1:], strict=False)
    depth = len(list(itertools.takewhile(lambda pair: pair[0][0] == pair[1][0], both)))
    last = depth + 1 == len(second)
    return first[depth][1], (candidate.values[-1][1] if last else second[depth][1])


def _unquantized(point: Point) -> list[tuple[str, str]]:
    return list(itertools.takewhile(lambda value: value[0] != "DequantizeLinear", point.values))
