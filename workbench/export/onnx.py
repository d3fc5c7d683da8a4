"""Export a module to an ONNX file for ONNX Runtime and OpenVINO, and validate the file."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.core.errors import ExportError
from workbench.core.files import atomic_write
from workbench.core.quiet import silence_thread
from workbench.export.agreement import compare_outputs
from workbench.export.capture import (
    Captured,
    capture_dynamic,
    capture_fixed,
    describe_io,
    evaluating,
    is_quantized,
    reason_of,
    resize_batch,
)
from workbench.export.io import LAYER_KEY, IOSpec, describe_tree, input_leaves
from workbench.export.onnx_graph import keep_reduced_dims, with_table_sizes
from workbench.export.onnx_integers import IntegerFeatures, dynamic_translations, integer_features, lower_integers
from workbench.export.onnx_module import OnnxModule, unoptimized_session
from workbench.export.operator_table import keep_operator_table
from workbench.tasks.axes import OpenDims, alternative_sizes, axis_sizes, resize
from workbench.tasks.trees import Tree, batch_size, call_model

_VALIDATION_BATCHES = (1, 3)

_SCOPES = "pkg.torch.onnx.name_scopes"

# Temporary names: a user's name may be taken by a value inside the graph.
_INPUT, _OUTPUT = "workbench.input.{}", "workbench.output.{}"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Result of an export; ``program`` is None for an :class:`OnnxModule`."""

    path: Path
    opset: int
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
    """Export ``module`` to ``path``, with a dynamic batch if the module allows it.

    Raises ExportError if it cannot be exported, or the file's outputs differ from the module's.

    Parameters
    ----------
    module
        A float module (exported in eval mode), a module quantized by torchao's PT2E, or an :class:`OnnxModule`, whose
        file is copied.
    inputs
        A batch ``[n, ...]`` for ``forward``: a tensor, a tuple or a dict of keywords.
    names
        A name for each input.
    batch
        Batch size if it cannot be dynamic; None: that of ``inputs``.
    dims
        Named dynamic dimensions per input, besides the batch. If the module does not allow them, they are fixed at the
        sizes of ``inputs``, with a note.
    """
    path = Path(path)
    if len(names) != len(input_leaves(inputs)):
        raise ExportError(f"names must hold one name per input ({len(input_leaves(inputs))}), got {list(names)}.")
    if isinstance(module, OnnxModule):
        with atomic_write(path) as temporary:
            temporary.write_bytes(module.content)
        return ExportReport(path, module.opset, (), module.io, None)
    module, fixed = evaluating(module), batch or batch_size(inputs)
    if any(dims):
        try:
            return _write(module, capture_dynamic(module, inputs, dims=dims), inputs, path, names, dims)
        except ExportError as error:
            if not isinstance(error.__cause__, OSError):
                report = export_onnx(module, inputs, path, names=names, batch=batch)
                return dataclasses.replace(report, notes=(*report.notes, _fixed_note(inputs, dims, error)))
            raise
    try:
        return _write(module, capture_dynamic(module, inputs), inputs, path, names)
    except ExportError as error:
        reason = str(error).removeprefix("The module cannot be exported: ")
    return _write(module, capture_fixed(module, inputs, fixed, reason=reason), inputs, path, names)


def _fixed_note(inputs: Tree, dims: OpenDims, error: ExportError) -> str:
    sizes = ", ".join(f"{axis} at {size}" for axis, size in axis_sizes(inputs, dims).items())
    reason = str(error).removeprefix("The module cannot be exported: ").replace("the batch size", "a size")
    return f"Dynamic in the task, fixed in the file: {sizes}. {reason[:1].upper()}{reason[1:]}"


def _write(
    module: nn.Module, captured: Captured, inputs: Tree, path: Path, names: Sequence[str], dims: OpenDims = ()
) -> ExportReport:
    io = describe_io(module, inputs, names, batch=captured.batch, dims=dims)
    features = integer_features(captured.program)
    model = _convert(captured.program, io, features)
    lower_integers(model, features)
    if is_quantized(captured):
        keep_reduced_dims(model)
    _tidy(model, io)
    try:
        content = model.SerializeToString()
    except Exception as error:
        raise ExportError(f"The module cannot be written as one ONNX file: {reason_of(error)}") from error
    _validate(content, module, inputs, io, quantized=is_quantized(captured))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    io = with_table_sizes(io, model.graph)
    return ExportReport(path, features.opset, captured.notes, io, captured.program)


def _convert(program: Any, io: IOSpec, features: IntegerFeatures) -> Any:
    try:
        with torch.no_grad(), silence_thread():
            keep_operator_table()
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=features.opset,
                custom_translation_table=dynamic_translations() if features.dynamic else None,
                input_names=[_INPUT.format(i) for i in range(len(io.inputs))],
                output_names=[_OUTPUT.format(i) for i in range(len(io.outputs))],
            )
    except Exception as error:
        raise ExportError(f"The module cannot be exported: {reason_of(error)}") from error
    return exported.model_proto  # type: ignore[union-attr]


def _tidy(model: Any, io: IOSpec) -> None:
    """Name inputs, outputs and batch; drop source paths and stack traces, which can be larger than the weights."""
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
                dim.dim_param = re.sub(r"\w+", lambda match: symbols.get(match[0], match[0]), dim.dim_param)
    layers = [_layer_of(node) for node in model.graph.node]
    graph, functions = model.graph, model.functions
    inner = [node for function in functions for node in function.node]
    owners = (*graph.node, *graph.input, *graph.value_info, *graph.initializer, *functions, *inner)
    for owner in (model, graph, *owners):
        del owner.metadata_props[:]
        owner.doc_string = ""
    for node, layer in zip(model.graph.node, layers, strict=True):
        if layer:
            node.metadata_props.add(key=LAYER_KEY, value=layer)


def _layer_of(node: Any) -> str:
    """Return the module that a node comes from, empty for the model itself or if unknown."""
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


def _validate(content: bytes, module: nn.Module, inputs: Tree, io: IOSpec, *, quantized: bool) -> None:
    """Check the file, and compare its outputs with the module's at two batch sizes."""
    import onnx

    try:
        onnx.checker.check_model(content)
        session = unoptimized_session(content, threads=1)
    except Exception as error:
        raise ExportError(f"The module cannot be exported: the ONNX file is not valid: {reason_of(error)}") from error
    other = alternative_sizes(inputs, io.open_dims) if io.axes else {}
    suffix = "".join(f", {axis} {size}" for axis, size in other.items())
    for number, size in enumerate(_VALIDATION_BATCHES if io.batch is None else (io.batch,)):
        batch = resize_batch(inputs, size)
        if number:
            batch = resize(batch, io.open_dims, other)
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
                f"The module cannot be exported: the ONNX file's outputs differ from torch's at batch size {size}"
                f"{suffix} ({problem}). Its code may depend on the batch or on random numbers."
            )
