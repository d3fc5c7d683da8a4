"""Make the torch module of an artefact again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from workbench.artifact.artifact import Artifact
from workbench.artifact.graph import rebuild_graph
from workbench.artifact.manifest import GRAPH, ONNX, PROGRAM, STRUCTURE, WEIGHTS, module_files
from workbench.artifact.structure import own_tensors, replay
from workbench.core.checks import short_repr
from workbench.core.errors import ArtifactError, TaskError, first_line
from workbench.export.io import IOSpec, rebuild_inputs, tree_builder
from workbench.export.onnx_module import OnnxModule
from workbench.export.quiet import quiet_export
from workbench.tasks.load import load_module as load_named
from workbench.tasks.module import guard_inputs, own_module, with_output_form
from workbench.tasks.sizes import with_sizes


def load_module(artifact: Artifact, build: Callable[[], nn.Module] | None = None, *, trust: bool = False) -> nn.Module:
    """Return the module of an artefact, in eval mode.

    Parameters
    ----------
    build
        The task's function that makes the original module. Its structure is edited and its weights are replaced,
        and the result can be trained on. Not needed for a quantized variant, which is kept as a graph.
    trust
        A student of one's own is made by the function that the artefact names; and what neither edits of ``build()``
        nor a graph of plain operators describe is kept as a torch export program, a format that can run code while it
        is read. Give True only for a folder that you or your study wrote.

    Raises
    ------
    ArtifactError
        If ``build`` or ``trust`` is needed and missing, or the artefact does not fit what ``build`` makes.

    Examples
    --------
    >>> load_module(open_artifact("artefacts/prune-0.5"), task.build).training
    False
    """
    files = module_files(artifact.manifest)
    if STRUCTURE in files:
        module = rebuild(artifact.folder, start_of(artifact.folder, artifact.manifest, build, trust=trust))
        inputs = [torch.from_numpy(array) for array in artifact.reference.inputs]
        return guard_inputs(module, rebuild_inputs(artifact.io.kind, artifact.io.input_names, inputs))
    if GRAPH in files:
        return load_graph(artifact)
    if ONNX in files:
        return OnnxModule((artifact.folder / ONNX).read_bytes(), artifact.io)
    if not trust:
        why = artifact.manifest.get("replay_reason") or "rounding to integers is part of its graph"
        raise ArtifactError(
            f"The module of {artifact.folder} is kept as a torch export program ({why}), a format that can run code "
            "while it is read. If you or your study wrote this folder, give trust=True; otherwise use its ONNX file: "
            "load_variant(folder) without the task, or the backend onnxruntime or openvino."
        )
    return load_program(artifact)


def start_of(
    folder: Path, manifest: Mapping[str, Any], build: Callable[[], nn.Module] | None, *, trust: bool
) -> nn.Module:
    """Return the module that the edits of an artefact start from: what ``build`` gives, or a student by its name.

    Raises
    ------
    ArtifactError
        If it needs ``build``, or a function that may not be called without ``trust`` or cannot be.
    """
    student = manifest.get("base")
    if student is None:
        if build is None:
            raise ArtifactError(
                f"The artefact {folder} holds weights for the module of its task: give build=task.build."
            )
        return own_module(build, whose=f"The artefact {folder}")
    if not trust:
        raise ArtifactError(
            f"The module of {folder} is made by the function {student!r} (Distill.student), and calling it runs code "
            "that the folder names. If you or your study wrote this folder, give trust=True; otherwise use its ONNX "
            "file: load_variant(folder) without the task, or the backend onnxruntime or openvino."
        )
    try:
        return load_named(student)
    except TaskError as error:
        raise ArtifactError(f"The module of {folder} cannot be made again: {error}") from error


def rebuild(folder: Path, base: nn.Module) -> nn.Module:
    """Return ``base``, a fresh ``build()``, with the structure and weights of ``folder``, in eval mode."""
    try:
        edits = json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"Structure or weights of {folder} cannot be read: {error}.") from error
    module = replay(base, edits).eval()
    set_weights(module, weights)
    return module


def set_weights(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Put weights into a module: every tensor of it must be there, with the same shape, and none besides.

    Tensors that :func:`replay` made hold no memory until here, so that a structure cannot ask for more of it than
    there are weights.

    Raises
    ------
    ArtifactError
        Naming the first tensor that does not fit.
    """
    own = dict(own_tensors(module))
    missing, unknown = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unknown:
        name = min(missing or unknown)
        where = "is in the module but not in the artefact" if missing else "is in the artefact but not in the module"
        raise ArtifactError(
            f"The artefact does not fit the module that build() makes: the tensor {short_repr(name)} {where}."
        )
    made: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != weights[name].shape:
                raise ArtifactError(
                    f"The artefact does not fit the module that build() makes: {name!r} has shape "
                    f"{list(weights[name].shape)} in the artefact and {list(tensor.shape)} in the module."
                )
            if tensor.is_meta:
                made[id(tensor)] = _filled(tensor, weights[name])
            else:
                tensor.copy_(weights[name])
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, held in store.items():
                if held is not None:
                    store[name] = made.get(id(held), held)  # type: ignore[assignment]


def _filled(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    values = values.to(tensor.dtype)
    return nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def load_graph(artifact: Artifact) -> nn.Module:
    """Return the module of an artefact that is kept as a graph; ArtifactError where it is none that only computes."""
    _register_roundings()
    try:
        nodes = json.loads((artifact.folder / GRAPH).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(artifact.folder / WEIGHTS)
        return with_form_of(rebuild_graph(nodes, tensors, artifact.io), artifact.io)
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError, ArtifactError) as error:
        raise ArtifactError(
            f"The module of {artifact.folder} cannot be made again from {GRAPH}: {first_line(error)}."
        ) from error


def with_form_of(module: nn.Module, io: IOSpec) -> nn.Module:
    """Let a graph give outputs in the structure of ``io``, refuse inputs of other sizes than its, and return it."""
    with_sizes(module, io.input_names if io.kind == "dict" else (), [spec.shape for spec in io.inputs])
    return with_output_form(module, tree_builder(io.output_tree)(range(len(io.outputs))))


def _register_roundings() -> None:
    """Register the operators that quantized graphs call; torchao itself does it with this import."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401


def load_program(artifact: Artifact) -> nn.Module:
    """Read the torch export program of an artefact; the caller has made sure that it is trusted."""
    _register_roundings()
    try:
        with quiet_export():
            module: nn.Module = torch.export.load(artifact.folder / PROGRAM).module()
    except Exception as error:
        raise ArtifactError(
            f"{artifact.folder / PROGRAM} cannot be read by this torch ({torch.__version__}): "
            f"{type(error).__name__}: {first_line(error)}. Write the artefact again."
        ) from error
    return with_form_of(module, artifact.io)
