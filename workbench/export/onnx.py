"""Write a module as an ONNX file that ONNX Runtime and OpenVINO both run, and prove that it does the same."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.core.errors import ExportError
from workbench.core.files import atomic_write
from workbench.export.agreement import compare_outputs
from workbench.export.capture import (
    Captured,
    capture_dynamic,
    capture_fixed,
    evaluating,
    is_quantized,
    reason_of,
    resize_batch,
)
from workbench.export.embedding_tables import with_table_sizes
from workbench.export.io import LAYER_KEY, IOSpec, TensorSpec, Tree, describe_tree, input_kind, input_leaves
from workbench.export.onnx_integers import Needs, needs_of, rewrite, translations
from workbench.export.onnx_module import OnnxModule
from workbench.export.quiet import quiet_export
from workbench.export.reductions import keep_reduced_dims
from workbench.tasks.axes import OpenDims, axis_sizes, other_sizes, resized
from workbench.tasks.trees import batch_size, call_model

_PROOF_BATCHES = (1, 3)

_SCOPES = "pkg.torch.onnx.name_scopes"

# Neutral names while the exporter works: a user's name may be that of a weight or of a value inside the graph.
_INPUT, _OUTPUT = "workbench.input.{}", "workbench.output.{}"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written: ``batch`` is the only size the file runs, None where ``dynamic_batch``."""

    path: Path
    opset: int
    dynamic_batch: bool
    batch: int | None
    notes: tuple[str, ...]
    io: IOSpec
    program: Any = dataclasses.field(repr=False, compare=False)


def export_onnx(
    module: nn.Module,
    inputs: Tree,
    path: str | Path,
    *,
    names: Sequence[str],
    batch: int | None = None,
    dims: OpenDims = (),
) -> ExportReport:
    """Write ``module`` to ``path``, with a dynamic batch where the module allows it.

    Parameters
    ----------
    module
        A float module (exported as in eval mode), or one that torchao's PT2E converted, whose roundings are written
        as QuantizeLinear and DequantizeLinear; or an :class:`OnnxModule`, whose file is written as it is.
    inputs
        A batch ``[n, ...]`` in the structure that ``forward`` takes: a tensor, a tuple or a dict of keywords.
    names
        A name for each input.
    batch
        The size to fall back to where the batch cannot be dynamic; None: that of ``inputs``.
    dims
        For each input its dimensions that may have any size beside the batch, with their names; where the module
        allows none, they are fixed at the sizes of ``inputs``, and a note says why.

    Raises
    ------
    ExportError
        If the module cannot be exported, or the file gives other outputs than the module.

    Examples
    --------
    >>> export_onnx(nn.Linear(4, 2), torch.zeros(1, 4), "linear.onnx", names=["x"]).dynamic_batch
    True
    """
    path = Path(path)
    if len(names) != len(input_leaves(inputs)):
        raise ExportError(f"{len(input_leaves(inputs))} inputs need as many names, got {list(names)}.")
    if isinstance(module, OnnxModule):
        with atomic_write(path) as temporary:
            temporary.write_bytes(module.content)
        return ExportReport(path, module.opset, True, None, (), module.io, None)
    module, fixed = evaluating(module), batch or batch_size(inputs)
    if any(dims):
        try:
            return _write(module, capture_dynamic(module, inputs, dims=dims), inputs, path, names, dims)
        except ExportError as error:
            if not isinstance(error.__cause__, OSError):
                report = export_onnx(module, inputs, path, names=names, batch=batch)
                return dataclasses.replace(report, notes=(*report.notes, _closed(inputs, dims, error)))
            raise
    try:
        return _write(module, capture_dynamic(module, inputs), inputs, path, names)
    except ExportError as error:
        reason = str(error).removeprefix("The module cannot be exported: ")
    return _write(module, capture_fixed(module, inputs, fixed, reason=reason), inputs, path, names)


def _closed(inputs: Tree, dims: OpenDims, error: ExportError) -> str:
    sizes = ", ".join(f"{axis} at {size}" for axis, size in axis_sizes(inputs, dims).items())
    reason = str(error).removeprefix("The module cannot be exported: ").replace("the batch size", "a size")
    return f"Fixed although the task leaves it open: {sizes}. {reason[:1].upper()}{reason[1:]}"


def _write(
    module: nn.Module, captured: Captured, inputs: Tree, path: Path, names: Sequence[str], dims: OpenDims = ()
) -> ExportReport:
    io = describe_io(module, inputs, names, batch=captured.batch, dims=dims)
    needs = needs_of(captured.program)
    model = _convert(captured.program, io, needs)
    rewrite(model, needs)
    if is_quantized(captured):
        keep_reduced_dims(model)
    _tidy(model, io)
    try:
        content = model.SerializeToString()
    except Exception as error:
        raise ExportError(f"The module cannot be written as one ONNX file: {reason_of(error)}") from error
    _prove(content, module, inputs, io, quantized=is_quantized(captured))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    io = with_table_sizes(io, model.graph)
    return ExportReport(path, needs.opset, captured.batch is None, captured.batch, captured.notes, io, captured.program)


def describe_io(
    module: nn.Module, inputs: Tree, names: Sequence[str], *, batch: int | None = None, dims: OpenDims = ()
) -> IOSpec:
    """Return what a module takes and gives, found by running it on a small batch of ``inputs``.

    With ``dims`` it runs at other sizes too, which shows the dimensions of the outputs that follow them.

    Raises
    ------
    ExportError
        If an output is no tensor, or one without the batch as its first dimension.
    """
    with torch.no_grad():
        outputs = call_model(module, resize_batch(inputs, batch or 2))
    try:
        tree, found = describe_tree(outputs, torch.is_tensor)
    except TypeError as error:
        raise ExportError(f"The module's outputs cannot be exported: {error}.") from error
    size = batch or 2
    for name, leaf in found:
        if leaf.ndim == 0 or leaf.shape[0] != size:
            raise ExportError(
                f"Output {name!r} has shape {list(leaf.shape)} for a batch of {size}: every output must have the "
                "batch as its first dimension. Return per-sample values, or leave this output out."
            )
    shapes = _output_shapes(module, inputs, [tuple(leaf.shape[1:]) for _, leaf in found], dims)
    known = [*dims] or [{} for _ in names]
    return IOSpec(
        kind=input_kind(inputs),
        inputs=tuple(_spec(n, leaf, d) for n, leaf, d in zip(names, input_leaves(inputs), known, strict=True)),
        outputs=tuple(
            dataclasses.replace(_spec(name, leaf, {}), shape=shape)
            for (name, leaf), shape in zip(_distinct(found, names), shapes, strict=True)
        ),
        output_tree=tree,
        batch=batch,
    )


def _output_shapes(
    module: nn.Module, inputs: Tree, shapes: list[tuple[int | None, ...]], dims: OpenDims
) -> list[tuple[int | None, ...]]:
    """Return the shapes of the outputs, None in place of a size that is another one at other sizes of the inputs."""
    if not any(dims):
        return shapes
    sizes = other_sizes(inputs, dims)
    try:
        with torch.no_grad():
            outputs = call_model(module, resized(resize_batch(inputs, 2), dims, sizes))
        others = [tuple(leaf.shape[1:]) for _, leaf in describe_tree(outputs, torch.is_tensor)[1]]
        pairs = [zip(one, other, strict=True) for one, other in zip(shapes, others, strict=True)]
        return [tuple(size if size == other else None for size, other in pair) for pair in pairs]
    except Exception as error:
        words = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
        raise ExportError(f"The module cannot be exported: it does not run at {words}: {reason_of(error)}") from error


def _spec(name: str, leaf: torch.Tensor, dims: Mapping[int, str]) -> TensorSpec:
    shape = tuple(None if dim in dims else size for dim, size in enumerate(leaf.shape[1:], 1))
    axes = tuple(dims.get(dim) for dim in range(1, leaf.ndim)) if dims else ()
    return TensorSpec(name, str(leaf.dtype).removeprefix("torch."), shape, axes)


def _distinct(found: list[tuple[str, Any]], taken: Sequence[str]) -> list[tuple[str, Any]]:
    return [(f"{name}_out" if name in taken else name, leaf) for name, leaf in found]


def _convert(program: Any, io: IOSpec, needs: Needs) -> Any:
    try:
        with torch.no_grad(), quiet_export():
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=needs.opset,
                custom_translation_table=translations() if needs.dynamic else None,
                input_names=[_INPUT.format(i) for i in range(len(io.inputs))],
                output_names=[_OUTPUT.format(i) for i in range(len(io.outputs))],
            )
    except Exception as error:
        raise ExportError(f"The module cannot be exported: {reason_of(error)}") from error
    return exported.model_proto  # type: ignore[union-attr]


def _tidy(model: Any, io: IOSpec) -> None:
    """Name inputs, outputs and batch; drop source paths and stack traces, which can outweigh the weights."""
    names = {_INPUT.format(i): name for i, name in enumerate(io.input_names)}
    names |= {_OUTPUT.format(i): name for i, name in enumerate(io.output_names)}
    _rename(model.graph, {name: f"{name}.inner" for name in names.values()} | names)
    symbols: dict[str, str] = {}
    open_dims = dict(zip(io.input_names, io.open_dims, strict=True))
    for value in model.graph.input:
        for position, dim in enumerate(value.type.tensor_type.shape.dim):
            name = {0: "batch", **open_dims.get(value.name, {})}.get(position)
            if dim.dim_param and name:
                symbols.setdefault(dim.dim_param, name)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: symbols.get(found[0], found[0]), dim.dim_param)
    layers = [_layer_of(node) for node in model.graph.node]
    for owner in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.value_info, *model.functions):
        del owner.metadata_props[:]
        owner.doc_string = ""
    for node in (n for function in model.functions for n in function.node):
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    for node, layer in zip(model.graph.node, layers, strict=True):
        if layer:
            node.metadata_props.add(key=LAYER_KEY, value=layer)


def _layer_of(node: Any) -> str:
    """Return the name of the module that a node came from, empty for the model itself and where nobody says."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    names = ast.literal_eval(scopes)  # from the whole model down to the operator
    return str(names[-2]) if len(names) > 1 else ""


def _rename(graph: Any, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, names)


def _at(sizes: Mapping[str, int]) -> str:
    return "".join(f", {axis} {size}" for axis, size in sizes.items())


def _prove(content: bytes, module: nn.Module, inputs: Tree, io: IOSpec, *, quantized: bool) -> None:
    """Check the file, and run it at two batch sizes beside the module."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Without optimization quantized graphs are rounded as torch does it: the file is judged here, not the kernels.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnx.checker.check_model(content)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"The module cannot be exported: the ONNX file is not valid: {reason_of(error)}") from error
    other = other_sizes(inputs, io.open_dims) if io.axes else {}
    for number, size in enumerate(_PROOF_BATCHES if io.batch is None else (io.batch,)):
        batch = resize_batch(inputs, size)
        if number:
            batch = resized(batch, io.open_dims, other)
        with torch.no_grad():
            want = [leaf.numpy() for _, leaf in describe_tree(call_model(module, batch), torch.is_tensor)[1]]
        feed = {n: np.ascontiguousarray(leaf) for n, leaf in zip(io.input_names, input_leaves(batch), strict=True)}
        try:
            got = session.run(list(io.output_names), feed)
        except Exception as error:
            raise ExportError(
                f"The module cannot be exported: the ONNX file does not run at batch size {size}: {reason_of(error)}"
            ) from error
        problem = compare_outputs(want, got, quantized=quantized).problem
        if problem:
            raise ExportError(
                f"The module cannot be exported: the ONNX file gives other outputs than torch at batch size {size}"
                f"{_at(other)} ({problem}). Its code may do something that depends on the batch or on chance."
            )
