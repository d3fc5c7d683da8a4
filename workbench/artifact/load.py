"""Load a variant from disk for its task, or a cached prefix of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.artifact.artifact import Artifact
from workbench.artifact.manifest import read_manifest, recipe_of, version_note
from workbench.artifact.rebuild import load_module, rebuild, start_of
from workbench.compress.variant import StepReport, Variant
from workbench.core.checks import given
from workbench.core.errors import ArtifactError, WorkbenchError, first_line
from workbench.export.agreement import compare_outputs
from workbench.export.io import rebuild_inputs
from workbench.tasks.task import Task
from workbench.tasks.trees import leaves


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
