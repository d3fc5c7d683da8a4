"""Load the torch module of an artifact, a variant for its task, or a cached prefix of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from workbench.artifact.artifact import Artifact
from workbench.artifact.graph import rebuild_graph
from workbench.artifact.manifest import (
    GRAPH,
    ONNX,
    PROGRAM,
    STRUCTURE,
    WEIGHTS,
    module_files,
    read_manifest,
    recipe_of,
    version_note,
)
from workbench.artifact.structure import own_tensors, replay
from workbench.compress.variant import StepReport, Variant
from workbench.core.checks import given, short_repr
from workbench.core.errors import ArtifactError, TaskError, WorkbenchError, first_line
from workbench.core.quiet import silence_thread
from workbench.export.agreement import compare_outputs
from workbench.export.io import IOSpec, rebuild_inputs, tree_builder
from workbench.export.onnx_module import OnnxModule
from workbench.tasks.load import load_module as load_named
from workbench.tasks.module import build_module, protect_inputs, require_sizes, restore_output_structure
from workbench.tasks.task import Task
from workbench.tasks.trees import leaves

_TRUST = (
    "Give trust=True if you or your study wrote this folder; else use its ONNX file: load_variant(folder) without the "
    "task, or the backend onnxruntime or openvino."
)


def load_module(artifact: Artifact, build: Callable[[], nn.Module] | None = None, *, trust: bool = False) -> nn.Module:
    """Return the module of an artifact, in eval mode; ArtifactError if it does not fit the module of ``build``.

    Parameters
    ----------
    build
        The task's function that makes the original module, which is edited and gets the artifact's weights. Not needed
        for a quantized variant, which is stored as a graph.
    trust
        Allow code from the folder: the function of ``Distill(student=...)``, and torch export programs (a format that
        can run code while it is read). Set it only for a folder that you or your study wrote.

    Examples
    --------
    >>> load_module(open_artifact("artifacts/prune-0.5"), task.build).training
    False
    """
    files = module_files(artifact.manifest)
    if STRUCTURE in files:
        module = rebuild(artifact.folder, start_of(artifact.folder, artifact.manifest, build, trust=trust))
        inputs = [torch.from_numpy(array) for array in artifact.reference.inputs]
        return protect_inputs(module, rebuild_inputs(artifact.io.kind, artifact.io.input_names, inputs))
    if ONNX in files:
        return OnnxModule((artifact.folder / ONNX).read_bytes(), artifact.io)
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators of quantized graphs

    if GRAPH in files:
        return _load_graph(artifact)
    if not trust:
        reason = artifact.manifest.get("replay_reason") or "it is quantized"
        raise ArtifactError(
            f"The module of {artifact.folder} is a torch export program ({reason}), a format that can run code when "
            f"read. {_TRUST}"
        )
    return _load_program(artifact)


def start_of(
    folder: Path, manifest: Mapping[str, Any], build: Callable[[], nn.Module] | None, *, trust: bool
) -> nn.Module:
    """Return the module that the edits of an artifact start from: ``build()``, or a student by name.

    Raises ArtifactError if ``build`` or ``trust`` is required, or the student's function fails.
    """
    student = manifest.get("base")
    if student is None:
        if build is None:
            raise ArtifactError(f"The artifact {folder} holds weights for its task's module: give build=task.build.")
        return build_module(build, whose=f"The artifact {folder}")
    if not trust:
        raise ArtifactError(
            f"The module of {folder} is made by the function {student!r} (Distill.student), which is code that the "
            f"folder names. {_TRUST}"
        )
    try:
        return load_named(student)
    except TaskError as error:
        raise ArtifactError(f"The module of {folder} cannot be rebuilt: {error}") from error


def rebuild(folder: Path, base: nn.Module) -> nn.Module:
    """Return ``base`` with the structure and weights of ``folder``, in eval mode."""
    try:
        edits = json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"Structure or weights of {folder} cannot be read: {error}.") from error
    module = replay(base, edits).eval()
    set_weights(module, weights)
    return module


def set_weights(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Set all tensors of a module; names and shapes must match, else ArtifactError.

    Tensors from :func:`replay` have no memory until here, so a structure cannot claim more memory than its weights.
    """
    own = dict(own_tensors(module))
    missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unknown:
        name = min(missing or unknown)
        where = "is in the module but not in the artifact" if missing else "is in the artifact but not in the module"
        raise ArtifactError(
            f"The artifact does not fit the module that build() makes: the tensor {short_repr(name)} {where}."
        )
    filled: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != weights[name].shape:
                raise ArtifactError(
                    f"The artifact does not fit the module that build() makes: {name!r} has shape "
                    f"{list(weights[name].shape)} in the artifact and {list(tensor.shape)} in the module."
                )
            if tensor.is_meta:
                values = weights[name].to(tensor.dtype)
                is_parameter = isinstance(tensor, nn.Parameter)
                filled[id(tensor)] = nn.Parameter(values, tensor.requires_grad) if is_parameter else values
            else:
                tensor.copy_(weights[name])
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, held in store.items():
                if held is not None:
                    store[name] = filled.get(id(held), held)  # type: ignore[assignment]


def _load_graph(artifact: Artifact) -> nn.Module:
    try:
        nodes = json.loads((artifact.folder / GRAPH).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(artifact.folder / WEIGHTS)
        return with_form_of(rebuild_graph(nodes, tensors, artifact.io), artifact.io)
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError, ArtifactError) as error:
        raise ArtifactError(
            f"The module of {artifact.folder} cannot be rebuilt from {GRAPH}: {first_line(error)}."
        ) from error


def with_form_of(module: nn.Module, io: IOSpec) -> nn.Module:
    """Give a graph the output structure of ``io`` and a check of input sizes; return it."""
    require_sizes(module, io.input_names if io.kind == "dict" else (), [spec.shape for spec in io.inputs])
    return restore_output_structure(module, tree_builder(io.output_tree)(range(len(io.outputs))))


def _load_program(artifact: Artifact) -> nn.Module:
    """Read the torch export program of a trusted artifact."""
    try:
        with silence_thread():
            module: nn.Module = torch.export.load(artifact.folder / PROGRAM).module()
    except Exception as error:
        raise ArtifactError(
            f"{artifact.folder / PROGRAM} cannot be read by this torch ({torch.__version__}): "
            f"{type(error).__name__}: {first_line(error)}. Save the variant again."
        ) from error
    return with_form_of(module, artifact.io)


def restore_variant(artifact: Artifact, task: Task, *, trust: bool = False) -> Variant:
    """Return the variant of an artifact, with a torch module; see :func:`workbench.load_variant`."""
    _check_task(artifact.folder, artifact.manifest["task"], task)
    module = load_module(artifact, task.model, trust=trust)
    variant = _variant(artifact.folder, artifact.manifest, module, task)
    if variant.recipe.student is not None and not trust:
        raise ArtifactError(
            f"The recipe of {artifact.folder} names the function {given(variant.recipe.student)} (Distill.student), "
            "which its variant would call. Give trust=True if you or your study wrote this folder."
        )
    _check_outputs(artifact, variant)
    return variant


def load_prefix(folder: Path, task: Task, *, recipe_id: str) -> Variant:
    """Return a variant that :func:`workbench.artifact.save.save_prefix` wrote; ArtifactError if it is not valid."""
    manifest = read_manifest(folder, needs=())
    _check_task(folder, manifest["task"], task)
    recipe = recipe_of(folder, manifest)
    if (recipe.recipe_id, recipe.student) != (recipe_id, manifest.get("base")):
        raise ArtifactError(f"{folder} holds another recipe than {recipe_id}.")
    start = start_of(folder, manifest, task.model, trust=True)  # a function of the requested recipe
    return _variant(folder, manifest, rebuild(folder, start), task)


def _variant(folder: Path, manifest: Mapping[str, Any], module: nn.Module, task: Task) -> Variant:
    try:
        reports = tuple(StepReport.from_dict(step) for step in manifest["steps"])
    except (WorkbenchError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"The reports of {folder} cannot be used: {error} {version_note(manifest)}") from error
    return Variant(
        module=module,
        recipe=recipe_of(folder, manifest),
        reports=reports,
        task=task,
        quantized=manifest["quantized"],
        params=manifest["params"],
        macs=manifest["macs"],
        quality=float(manifest["validation_quality"]),
    )


def _check_task(folder: Path, written: Mapping[str, Any], task: Task) -> None:
    if written.get("fingerprint") != task.fingerprint:
        raise ArtifactError(
            f"{folder} was made for the task {written.get('name')!r}, version {written.get('version')!r} (fingerprint "
            f"{written.get('fingerprint')}), got {task.name!r}, version {task.version!r} ({task.fingerprint}): data, "
            "float weights or version differ. Give that task, or load the module alone: "
            "load_module(open_artifact(folder), task.build)."
        )


def _check_outputs(artifact: Artifact, variant: Variant) -> None:
    """Compare with the outputs at the time of saving: build() may have changed in a way that no shape shows."""
    stored = artifact.reference
    inputs = rebuild_inputs(artifact.io.kind, artifact.io.input_names, [torch.from_numpy(x) for x in stored.inputs])
    try:
        outputs = [np.asarray(leaf) for leaf in leaves(variant.predict(inputs))]
    except Exception as error:
        raise ArtifactError(f"The module of {artifact.folder} cannot run: {first_line(error)}") from error
    problem = compare_outputs(stored.outputs, outputs).problem
    if problem:
        raise ArtifactError(
            f"The outputs of {artifact.folder} differ from those at the time of saving: {problem}. The code of the "
            "task's build() has changed; use the code of that time."
        )
