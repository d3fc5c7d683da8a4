"""Look inside an engine: the values behind each layer of an ONNX file, as more outputs of the same file."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.files import TemporaryFolder
from workbench.engine.backends.base import ModelSource, require_onnx
from workbench.export.io import TensorSpec

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")
# what may stand between a stored weight and the operator that multiplies by it
_UNPACKING = ("DequantizeLinear", "Transpose", "Reshape", "Cast", "Identity", "QuantizeLinear", "Unsqueeze", "Squeeze")
_OWNER = re.compile(r"^(?P<owner>.+)\.(weight|bias)([._].*)?$")


@dataclasses.dataclass(frozen=True)
class Point:
    """A layer in a graph: ``values`` are the tensors behind it, each with what made it, the last after rounding.

    ``name`` is that of the module that owns weight or bias, None where the file does not say.
    """

    name: str | None
    op: str
    shape: tuple[int, ...]
    values: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer found in both graphs, and the tensors to compare."""

    name: str
    op: str
    reference: str
    candidate: str


def weight_owners(module: Any) -> dict[str, str]:
    """Return the names of a torch module's layers by the digest of their weight, as it is and transposed."""
    found = {}
    for name, layer in module.named_modules():
        weight: Any = getattr(layer, "weight", None)
        if hasattr(weight, "detach") and weight.ndim > 1:
            array = weight.detach().cpu().numpy()
            found.update({_digest(array): name, _digest(array.swapaxes(0, 1)): name})
    return found


def layer_points(path: Path, owners: Mapping[str, str] | None = None) -> list[Point]:
    """Return the layers that multiply by stored weights, in the order of computation.

    ``owners`` are the names by the digest of the weight, for weights whose own name was lost on the way to the file.
    """
    import onnx

    graph = onnx.load(str(path)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    known = {
        tensor.name: owners[digest]
        for tensor in graph.initializer
        if owners and len(tensor.dims) > 1
        for digest in [_digest(onnx.numpy_helper.to_array(tensor))]
        if digest in owners
    }
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    points = []
    for node in graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2:
            continue
        stored = _stored(node.input[1], makers, shapes)
        if stored is not None:
            points.append(_point(node, stored, known.get(stored), users, shapes))
    return points


def align(reference: Sequence[Point], candidate: Sequence[Point]) -> tuple[list[Pair], dict[str, str]]:
    """Return the layers found in both graphs, and for the others of the reference why they could not be matched.

    By name where both files keep it. A weight turned into integers may lose its name: such layers are matched by
    their place where both graphs hold as many layers of the same kinds and sizes in the same order.
    """
    in_order = len(reference) == len(candidate) and all(map(_alike, reference, candidate))
    by_name = {point.name: point for point in candidate if point.name is not None}
    pairs: list[Pair] = []
    lost: dict[str, str] = {}
    for place, point in enumerate(reference):
        name = point.name or f"{point.op} number {place + 1}"
        other = candidate[place] if in_order else by_name.get(point.name or "")
        if other is None:
            lost[name] = "the other graph has no layer of that name"
            continue
        found = _common(point, other)
        pairs.append(Pair(name, point.op, *found))
    return pairs, lost


def tapped(source: ModelSource, values: Sequence[str]) -> ModelSource:
    """Return the model with more outputs, in the order of ``values`` after its own: a file of its own, kept alive."""
    import onnx

    model = onnx.load(str(require_onnx(source, "debug_accuracy")))
    outputs = {value.name for value in model.graph.output}
    known = {value.name: value for value in model.graph.value_info}
    added = [name for name in dict.fromkeys(values) if name not in outputs]
    for name in added:
        model.graph.output.append(known.get(name) or onnx.helper.make_empty_tensor_value_info(name))
    folder = TemporaryFolder()
    path = folder.path / "model.onnx"
    onnx.save(model, str(path))
    specs = tuple(TensorSpec(name, "float32", ()) for name in added)
    io = dataclasses.replace(source.io, outputs=(*source.io.outputs, *specs))
    return dataclasses.replace(source, onnx_path=path, io=io, keep_alive=(folder, source.keep_alive))


def _stored(name: str, makers: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Return the stored tensor that a value is unpacked from, or None where it is computed from inputs."""
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
    owners = (match["owner"] for match in map(_OWNER.match, tensors) if match)
    size = tuple(sorted(shapes[stored]))
    return Point(owner or next(owners, None), node.op_type, size, tuple(values))


def _digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _only(users: dict[str, list[Any]], name: str, kinds: tuple[str, ...]) -> Any:
    found = users.get(name, [])
    return found[0] if len(found) == 1 and found[0].op_type in kinds else None


def _alike(a: Point, b: Point) -> bool:
    same_kind = a.op == b.op or {a.op, b.op} == {"Gemm", "MatMul"}
    return same_kind and a.shape == b.shape and (a.name is None or b.name is None or a.name == b.name)


def _common(reference: Point, candidate: Point) -> tuple[str, str]:
    """Return the last tensors of both that stand behind the same operators; rounding may follow in the candidate."""
    ours, theirs = _unrounded(reference), _unrounded(candidate)
    depth = 0
    for (a, _), (b, _) in zip(ours[1:], theirs[1:], strict=False):
        if a != b:
            break
        depth += 1
    last = depth + 1 == len(theirs)
    return ours[depth][1], (candidate.values[-1][1] if last else theirs[depth][1])


def _unrounded(point: Point) -> list[tuple[str, str]]:
    return list(_until_rounded(point.values))


def _until_rounded(values: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for op, name in values:
        if op == "DequantizeLinear":
            return
        yield op, name
