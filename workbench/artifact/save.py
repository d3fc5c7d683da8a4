"""Save a variant as an artifact."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.atomic_folder import replacing_folder
from workbench.artifact.graph import describe_graph, rebuild_graph
from workbench.artifact.load import set_weights, with_form_of
from workbench.artifact.manifest import GRAPH, IO, ONNX, PROGRAM, REFERENCE, STRUCTURE, WEIGHTS, write_manifest
from workbench.artifact.reference import Reference, sample_count
from workbench.artifact.structure import StructureError, describe_structure, own_tensors, replay
from workbench.core.checks import require_int, require_path
from workbench.core.errors import ArtifactError, ExportError, first_line
from workbench.core.machine import FINGERPRINT_LIBRARIES, library_versions, this_machine
from workbench.core.quiet import silence_thread
from workbench.export.capture import Captured, capture_dynamic, describe_io, resize_batch
from workbench.export.io import IOSpec, describe_tree, input_leaves
from workbench.export.onnx import export_onnx
from workbench.export.onnx_module import OnnxModule
from workbench.tasks.trees import Tree, call_model, leaves

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

_QUANTIZED = "it is quantized"


def save_variant(variant: Variant, folder: str | Path, *, batch: int = 1) -> Artifact:
    """Save a variant into ``folder`` atomically; an existing artifact is replaced.

    A module that cannot be exported is saved without an ONNX file, for torch eager only; see
    :attr:`Artifact.export_error`.

    Parameters
    ----------
    batch
        Batch size of the ONNX file if the module does not allow a dynamic one.

    Raises
    ------
    ConfigError
        If an argument is not valid.
    ArtifactError
        If the module can be saved neither as edits of ``task.build()`` nor as a program, or the folder is not an
        artifact or cannot be written.

    Examples
    --------
    >>> save_variant(recipe.apply(task), "artifacts/prune-0.5").size_mib
    0.31
    """
    folder = require_path("Variant.save: folder", folder)
    require_int("Variant.save: batch", batch)
    with replacing_folder(folder) as temporary:
        io, program, export = _write_onnx(variant, temporary / ONNX, batch)
        make_reference(variant.module, variant.task.examples(8), io).write(temporary / REFERENCE)
        _write_json(temporary / IO, io.to_dict())
        reason = _QUANTIZED if variant.quantized else _write_weights(variant, temporary)
        if reason and not export["is_module"]:
            _write_program(variant, program, io, temporary, reason)
        write_manifest(temporary, _manifest(variant, export, reason))
    return open_artifact(folder)


def save_prefix(variant: Variant, folder: Path) -> None:
    """Save structure, weights and reports only, for :func:`workbench.artifact.load.load_prefix`.

    Raises ArtifactError if the folder cannot be written, or the module is not an edit of ``task.build()``.
    """
    with replacing_folder(folder) as temporary:
        reason = _QUANTIZED if variant.quantized else _write_weights(variant, temporary)
        if reason:
            raise ArtifactError(f"The variant {variant.recipe.label!r} cannot be saved as weights: {reason}.")
        write_manifest(temporary, _manifest(variant, {"error": "saved as a recipe prefix"}, None))


def make_reference(module: nn.Module, examples: Tree, io: IOSpec) -> Reference:
    """Return a small batch of ``examples`` with the module's outputs."""
    total = sum(leaf.numel() * leaf.element_size() // max(1, leaf.shape[0]) for leaf in input_leaves(examples))
    size = sample_count(total) if io.batch is None else io.batch
    inputs = resize_batch(examples, size)
    with torch.inference_mode():
        _, outputs = describe_tree(call_model(module, inputs), torch.is_tensor)
    return Reference(
        [np.ascontiguousarray(leaf.numpy()) for leaf in input_leaves(inputs)],
        [np.array(leaf.numpy()) for _, leaf in outputs],
    )


def _write_onnx(variant: Variant, path: Path, batch: int) -> tuple[IOSpec, Any, dict[str, Any]]:
    """Write the ONNX file; return inputs and outputs, the program (None if it failed) and the manifest's entry."""
    task, inputs = variant.task, variant.task.examples(2)
    entry: dict[str, Any] = {"error": None, "opset": None, "batch": None, "notes": [], "is_module": False}
    try:
        report = export_onnx(variant.module, inputs, path, names=task.parameter_names, batch=batch, dims=task.open_dims)
    except ExportError as error:
        if (cause := _disk_error(error)) is not None:  # not the module's fault
            raise cause from error
        return describe_io(variant.module, inputs, task.parameter_names), None, {**entry, "error": str(error)}
    # the module of an external quantizer runs the file itself
    is_module = isinstance(variant.module, OnnxModule)
    entry |= {"opset": report.opset, "batch": report.io.batch, "notes": list(report.notes), "is_module": is_module}
    return report.io, report.program, entry


def _disk_error(error: BaseException) -> OSError | None:
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno is not None):
        cause = cause.__cause__ or cause.__context__
    return cause


def _write_weights(variant: Variant, folder: Path) -> str | None:
    """Write structure and weights if they restore the module, else return the reason why not."""
    try:
        edits = describe_structure(variant.module, variant.start())
    except StructureError as error:
        return str(error)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in own_tensors(variant.module)}
    try:
        restored = replay(variant.start(), edits)
        set_weights(restored, weights)
        if not _same_outputs(variant, restored.eval()):
            return "edits of build() do not give the same outputs"
    except ArtifactError as error:
        return str(error)
    _write_json(folder / STRUCTURE, edits)
    _write_tensors(weights, folder / WEIGHTS)
    return None


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode
    with _plain_errors():
        safetensors.torch.save_file(tensors, path)
    path.chmod(mode)  # safetensors makes it 0600


def _same_outputs(variant: Variant, module: nn.Module, batch: int | None = None) -> bool:
    inputs = resize_batch(variant.task.examples(2), batch or 2)
    with torch.no_grad():
        want = leaves(call_model(variant.module, inputs))
        got = leaves(call_model(module, inputs))
    return len(want) == len(got) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(want, got, strict=True)
    )


def _write_program(variant: Variant, program: Any, io: IOSpec, folder: Path, reason: str) -> None:
    """Write the captured module as a graph of plain data if that restores it, else as a torch export program."""
    if program is None:
        try:
            program = _captured(variant).program
        except ExportError as error:
            raise ArtifactError(
                f"The variant {variant.recipe.label!r} cannot be saved as weights ({reason}) or as a program: {error}"
            ) from error
    if _write_graph(variant, program, io, folder):
        return
    with silence_thread(), _plain_errors():
        torch.export.save(program, folder / PROGRAM)


def _write_graph(variant: Variant, program: torch.export.ExportedProgram, io: IOSpec, folder: Path) -> bool:
    try:
        nodes, tensors = describe_graph(program.module(check_guards=False))
        restored = with_form_of(rebuild_graph(json.loads(json.dumps(nodes)), tensors, io), io)
        if not _same_outputs(variant, restored, io.batch):
            return False
    except (StructureError, ArtifactError, RuntimeError, TypeError, ValueError):  # only a program describes it
        return False
    _write_json(folder / GRAPH, nodes)
    _write_tensors(tensors, folder / WEIGHTS)
    return True


def _captured(variant: Variant) -> Captured:
    task, dims = variant.task, variant.task.open_dims
    if any(dims):
        with contextlib.suppress(ExportError):  # their sizes are fixed then
            return capture_dynamic(variant.module, task.examples(2), dims=dims)
    return capture_dynamic(variant.module, task.examples(2))


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Convert errors of safetensors and torch on a full disk to OSError."""
    try:
        yield
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise OSError(errno.EIO, first_line(error)) from error


def _manifest(variant: Variant, export: dict[str, Any], reason: str | None) -> dict[str, Any]:
    task, machine = variant.task, this_machine()
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "recipe": json.loads(variant.recipe.to_json()),
        "recipe_id": variant.recipe.recipe_id,
        "label": variant.recipe.label,
        "technique": variant.recipe.technique,
        "task": {"name": task.name, "version": task.version, "fingerprint": task.fingerprint},
        "quantized": variant.quantized,
        "params": variant.params,
        "macs": variant.macs,
        "validation_quality": variant.quality,
        "steps": [report.to_dict() for report in variant.reports],
        "export": export,
        "replayable": reason is None,
        "replay_reason": reason,
        "base": variant.recipe.student,
        "machine": {"cpu_model": machine.cpu_model, "isa": list(machine.isa), "int8_dot": machine.int8_dot},
        "versions": library_versions((*FINGERPRINT_LIBRARIES, "onnx", "onnxscript", "safetensors")),
    }


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
