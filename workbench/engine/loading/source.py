"""Where an engine's model comes from: a variant, an artefact, a user's ONNX file or OpenVINO model.

torch is imported for variants alone.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.manifest import MANIFEST
from workbench.artifact.reference import Arrays, Reference
from workbench.compress.quantize.modes import apart, mode_of_recipe
from workbench.core.errors import ConfigError, EngineError, ExportError, first_line
from workbench.core.lazy import optional_import
from workbench.core.machine import this_machine
from workbench.core.untrusted import require_line
from workbench.engine.backends.base import ModelSource
from workbench.engine.calls.inputs import Binder
from workbench.engine.loading.file_probe import Probed, probe
from workbench.engine.loading.onnx_files import read_graph
from workbench.export.embedding_tables import with_table_sizes
from workbench.export.io import IOSpec, TensorSpec

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

Described = tuple[TensorSpec, int | None]
"""An input or output of a model file, with its batch size where that is fixed."""
_EXPORTS: weakref.WeakKeyDictionary[Any, dict[int, ModelSource]] = weakref.WeakKeyDictionary()


class TemporaryFolder:
    """A folder that is removed when nobody holds this object any more, or when the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="workbench-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def source_from_path(path: str | Path, *, example_inputs: Any = None) -> ModelSource:
    """Return the model of an artefact's folder, an ONNX file, or an OpenVINO model (``.xml``, beside its ``.bin``).

    Parameters
    ----------
    example_inputs : optional
        Inputs in the model's structure, by which an ONNX file is checked instead of made-up ones.

    Raises
    ------
    EngineError
        If there is no such file or it is none of them.
    InputError
        If the example inputs do not fit the model.
    """
    path = Path(path)
    if path.is_dir() and (path / MANIFEST).is_file():
        return source_from_artifact(open_artifact(path))
    if path.is_dir():
        raise EngineError(f"model_path {str(path)!r} is a folder without {MANIFEST}: give an artefact or an ONNX file.")
    if not path.is_file():
        raise EngineError(
            f"model_path {str(path)!r} does not exist. Give an ONNX file, OpenVINO's .xml, or an artefact's folder."
        )
    if path.suffix == ".xml":
        from workbench.engine.loading.openvino_files import source_from_openvino

        return source_from_openvino(path)
    return _source_from_onnx(path, example_inputs)


def source_from_artifact(
    artifact: Artifact, *, build: Callable[[], Any] | None = None, trust: bool = False
) -> ModelSource:
    """Return the model of an artifact; ``build`` and ``trust`` as in :func:`workbench.artifact.rebuild.load_module`."""

    def module() -> Any:
        with optional_import("A backend of torch"):
            from workbench.artifact.rebuild import load_module

        return load_module(artifact, build, trust=trust)

    mode = mode_of_recipe(artifact.manifest.get("recipe", {})) if artifact.quantized else None
    return ModelSource(
        label=str(artifact.folder),
        io=artifact.io,
        onnx_path=artifact.onnx_path,
        onnx_reason=artifact.export_error,
        module=module,
        quantized=artifact.quantized,
        mode=mode,
        reference=artifact.reference,
        notes=(*artifact.notes, *_target_notes(artifact)),
        apart=apart(mode),
    )


def _target_notes(artifact: Artifact) -> tuple[str, ...]:
    written = artifact.manifest.get("machine", {})
    here = this_machine()
    if not artifact.quantized or written.get("int8_dot") == here.int8_dot:
        return ()
    return (
        f"quantized on {written.get('cpu_model')}, which handles int8 products differently from this CPU "
        f"({here.cpu_model}): quality must be measured again here",
    )


def source_from_variant(variant: Variant, *, onnx: bool, batch: int) -> ModelSource:
    """Return the model of a variant, exported into a temporary folder where ``onnx`` is wanted.

    The export is kept as long as the variant lives, so that a second engine does not repeat it. A module that
    cannot be exported gives a source without ONNX file and the reason.

    Raises
    ------
    ConfigError
        If it is something else than a variant.
    """
    from workbench.artifact.save import make_reference
    from workbench.compress.variant import Variant
    from workbench.export.onnx import describe_io

    if not isinstance(variant, Variant):
        raise ConfigError(
            f"from_variant takes a Variant, got {type(variant).__name__}: Variant.original(task) makes one."
        )
    if onnx:
        return _exported(variant, batch)
    inputs, names = variant.task.examples(8), variant.task.parameter_names
    io = describe_io(variant.module, inputs, names, dims=variant.task.open_dims)
    return _variant_source(variant, io, make_reference(variant.module, inputs, io))


def _exported(variant: Variant, batch: int) -> ModelSource:
    from workbench.artifact.save import make_reference
    from workbench.export.onnx import describe_io, export_onnx

    kept = _EXPORTS.setdefault(variant, {})
    source = kept.get(0) or kept.get(batch)
    if source is None:
        task = variant.task
        folder = TemporaryFolder()
        path = folder.path / "model.onnx"
        found: dict[str, Any] = {"keep_alive": folder}
        try:
            report = export_onnx(
                variant.module, task.examples(2), path, names=task.parameter_names, batch=batch, dims=task.open_dims
            )
            io = report.io
            found |= {"onnx_path": path, "notes": report.notes}
        except ExportError as error:
            io = describe_io(variant.module, task.examples(2), task.parameter_names)
            found["onnx_reason"] = str(error)
        source = _variant_source(variant, io, make_reference(variant.module, task.examples(8), io), **found)
        kept[0 if io.batch is None else batch] = source
    return source


def _variant_source(variant: Variant, io: IOSpec, reference: Reference, **more: Any) -> ModelSource:
    from workbench.tasks.module import copied_module

    module, mode = variant.module, mode_of_recipe(variant.recipe.to_dict()) if variant.quantized else None
    return ModelSource(
        label=f"variant {variant.recipe.label!r}",
        io=io,
        module=lambda: copied_module(module),
        quantized=variant.quantized,
        mode=mode,
        reference=reference,
        apart=apart(mode),
        **more,
    )


def _source_from_onnx(path: Path, example_inputs: Any) -> ModelSource:
    with optional_import("An engine for an ONNX file"):
        import onnx  # noqa: F401 - reads the graph
        import onnxruntime  # noqa: F401 - gives the reference that outputs are checked against

    model = read_graph(path)
    io = with_table_sizes(_io_of(model.graph, path), model.graph)
    quantized = any("QuantizeLinear" in node.op_type or "Integer" in node.op_type for node in model.graph.node)
    found, note = _probed(path, io, example_inputs)
    return ModelSource(
        label=path.name,
        io=io if found is None else found.io,
        onnx_path=path,
        module_reason="an ONNX file holds no torch module. Use the backend onnxruntime or openvino.",
        quantized=quantized,
        reference=None if found is None else found.reference,
        notes=(note,),
        apart=None if found is None else found.apart,
    )


def _io_of(graph: Any, path: Path) -> IOSpec:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_tensor(value, path) for value in graph.input if value.name not in weights]
    outputs = [_tensor(value, path) for value in graph.output]
    return io_of(inputs, outputs, path)


def io_of(inputs: Sequence[Described], outputs: Sequence[Described], path: Path) -> IOSpec:
    """Return what a model file takes and gives; raises EngineError where its inputs disagree on the batch size."""
    sizes = {size for _, size in inputs if size is not None}
    if len(sizes) > 1:
        raise EngineError(
            f"{path}: inputs have different fixed batch sizes {sorted(sizes)}; the first dimension must agree."
        )
    names = [spec.name for spec, _ in outputs]
    tree = {"leaf": 0} if len(names) == 1 else {"dict": {name: {"leaf": i} for i, name in enumerate(names)}}
    return IOSpec(
        kind="tensor" if len(inputs) == 1 else "dict",
        inputs=tuple(spec for spec, _ in inputs),
        outputs=tuple(spec for spec, _ in outputs),
        output_tree=tree,
        batch=next(iter(sizes), None),
    )


def _tensor(value: Any, path: Path) -> Described:
    import onnx

    name = require_line(f"{path}: an input or output name", value.name, error=EngineError)
    kind = value.type.tensor_type
    if not kind.elem_type or not kind.HasField("shape") or not kind.shape.dim:
        raise EngineError(f"{path}: {name!r} is no tensor with a batch dimension; engines need one everywhere.")
    # some exporters write an open dimension as -1, or as 0
    dims = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path}: {name!r} has the unknown type {kind.elem_type}.") from error
    return TensorSpec(name, dtype, tuple(dims[1:])), dims[0]


def _probed(path: Path, io: IOSpec, example_inputs: Any) -> tuple[Probed | None, str]:
    """Return what ONNX Runtime shows without any optimization, and what must be said of it."""
    given = None if example_inputs is None else Binder(io, lambda _: None).bind(example_inputs)[0]
    if given is None and any(None in spec.shape for spec in io.inputs):
        return None, "outputs are not checked: the file leaves the shape of its inputs open"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error

    def run(inputs: Arrays) -> Arrays:
        found: Arrays = session.run(list(io.output_names), dict(zip(io.input_names, inputs, strict=True)))
        return found

    try:
        found = probe(run, io, inputs=given)
    except Exception as error:
        if given is not None:
            raise EngineError(f"ONNX Runtime cannot run {path} on example_inputs: {first_line(error)}") from error
        return None, f"outputs are not checked: the file does not run on made-up inputs ({first_line(error)})"
    of = "random inputs" if given is None else "the example inputs"
    return found, f"outputs are checked against ONNX Runtime without optimizations, on {of}: an ONNX file has no torch"
