"""Make a model source from a variant, an artifact, an ONNX file or an OpenVINO model.

Only variants need torch.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.manifest import MANIFEST
from workbench.compress.quantize.modes import mode_of_recipe, unbatchable
from workbench.core.errors import ConfigError, EngineError, ExportError
from workbench.core.files import TemporaryFolder
from workbench.core.lazy import optional_import
from workbench.core.machine import this_machine
from workbench.engine.backends.base import ModelSource
from workbench.engine.loading.model_files import source_from_onnx, source_from_openvino
from workbench.export.io import IOSpec

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

_EXPORTS: weakref.WeakKeyDictionary[Any, dict[int, ModelSource]] = weakref.WeakKeyDictionary()
"""Exported sources of each variant by batch size; 0 for an open batch."""


def source_from_path(path: str | Path, *, example_inputs: Any = None) -> ModelSource:
    """Return the model of an artifact's folder, an ONNX file, or an OpenVINO model (``.xml`` next to its ``.bin``).

    ``example_inputs``, in the model's structure, replace random ones to check an ONNX file. Raises EngineError for any
    other path, and InputError if the example inputs do not fit.
    """
    path = Path(path)
    if path.is_dir() and (path / MANIFEST).is_file():
        return source_from_artifact(open_artifact(path))
    if path.is_dir():
        raise EngineError(f"model_path {str(path)!r} is a folder without {MANIFEST}: give an artifact or an ONNX file.")
    if not path.is_file():
        raise EngineError(
            f"model_path {str(path)!r} does not exist. Give an ONNX file, OpenVINO's .xml, or an artifact's folder."
        )
    return source_from_openvino(path) if path.suffix == ".xml" else source_from_onnx(path, example_inputs)


def source_from_artifact(
    artifact: Artifact, *, build: Callable[[], Any] | None = None, trust: bool = False
) -> ModelSource:
    """Return the model of an artifact; ``build`` and ``trust`` as in :func:`workbench.artifact.load.load_module`."""

    def module() -> Any:
        with optional_import("A backend of torch"):
            from workbench.artifact.load import load_module

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
        notes=(*artifact.notes, *_cpu_notes(artifact)),
        unbatchable=unbatchable(mode),
    )


def _cpu_notes(artifact: Artifact) -> tuple[str, ...]:
    origin = artifact.manifest.get("machine", {})
    here = this_machine()
    if not artifact.quantized or origin.get("int8_dot") == here.int8_dot:
        return ()
    return (
        f"quantized on {origin.get('cpu_model')}, which handles int8 products differently from this CPU "
        f"({here.cpu_model}): quality must be measured again here",
    )


def source_from_variant(variant: Variant, *, onnx: bool, batch: int) -> ModelSource:
    """Return the model of a variant; with ``onnx`` it is also exported into a temporary folder.

    The export is reused as long as the variant lives. A module that cannot be exported gives a source without an ONNX
    file and the reason.
    """
    from workbench.compress.variant import Variant
    from workbench.export.capture import describe_io

    if not isinstance(variant, Variant):
        raise ConfigError(
            f"from_variant takes a Variant, got {type(variant).__name__}: Variant.original(task) makes one."
        )
    if onnx:
        return _exported(variant, batch)
    task = variant.task
    io = describe_io(variant.module, task.examples(8), task.parameter_names, dims=task.open_dims)
    return _variant_source(variant, io)


def _exported(variant: Variant, batch: int) -> ModelSource:
    from workbench.export.capture import describe_io
    from workbench.export.onnx import export_onnx

    cache = _EXPORTS.setdefault(variant, {})
    source = cache.get(0) or cache.get(batch)
    if source is None:
        task, names = variant.task, variant.task.parameter_names
        folder = TemporaryFolder()
        path = folder.path / "model.onnx"
        fields: dict[str, Any] = {"keep_alive": folder}
        try:
            report = export_onnx(variant.module, task.examples(2), path, names=names, batch=batch, dims=task.open_dims)
            io = report.io
            fields |= {"onnx_path": path, "notes": report.notes}
        except ExportError as error:
            io = describe_io(variant.module, task.examples(2), names)
            fields["onnx_reason"] = str(error)
        source = _variant_source(variant, io, **fields)
        cache[0 if io.batch is None else batch] = source
    return source


def _variant_source(variant: Variant, io: IOSpec, **fields: Any) -> ModelSource:
    from workbench.artifact.save import make_reference
    from workbench.tasks.module import copy_module

    module, mode = variant.module, mode_of_recipe(variant.recipe.to_dict()) if variant.quantized else None
    return ModelSource(
        label=f"variant {variant.recipe.label!r}",
        io=io,
        module=lambda: copy_module(module),
        quantized=variant.quantized,
        mode=mode,
        reference=make_reference(module, variant.task.examples(8), io),
        unbatchable=unbatchable(mode),
        **fields,
    )
