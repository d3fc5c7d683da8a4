"""A variant back from disk: with its task a whole Variant, without it a model that only predicts. Torch comes late."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.manifest import read_manifest
from workbench.compress.recipe import Recipe
from workbench.core.errors import ArtifactError, WorkbenchError, first_line
from workbench.core.given import given
from workbench.core.lazy import needing
from workbench.core.machine import library_versions
from workbench.export.agreement import compare_outputs
from workbench.export.io import IOSpec, rebuild_inputs

if TYPE_CHECKING:
    from workbench.compress.variant import StepReport, Variant
    from workbench.tasks.task import Task

_OURS = "inference-workbench"


class InferenceModel:
    """A saved variant without its task: it predicts from its ONNX file and tells what its manifest says.

    Attributes
    ----------
    artifact : Artifact
        The folder, its manifest, and what the model takes and gives.
    recipe : Recipe
        How it was made.
    steps : tuple of dict
        What each step did, as :meth:`StepReport.to_dict` wrote it.
    quality : float
        The task's metric on the validation split when it was saved.
    """

    def __init__(self, artifact: Artifact, *, backend: str = "onnxruntime") -> None:
        if artifact.onnx_path is None:
            raise ArtifactError(
                f"{artifact.folder} holds no ONNX file ({artifact.export_error}), so that it cannot predict without "
                "its task: give load_variant(folder, task)."
            )
        self.artifact = artifact
        self.recipe = recipe_of(artifact.folder, artifact.manifest)
        self.steps = tuple(artifact.manifest["steps"])
        self._backend = backend
        self._engine: Any = None

    @property
    def quality(self) -> float:
        """The task's metric on the *validation* split when it was saved."""
        return float(self.artifact.manifest["validation_quality"])

    @property
    def params(self) -> int:
        """Number of parameters."""
        return int(self.artifact.manifest["params"])

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample."""
        return int(self.artifact.manifest["macs"])

    @property
    def quantized(self) -> bool:
        """True where rounding to integers is part of the model."""
        return self.artifact.quantized

    @property
    def io(self) -> IOSpec:
        """What it takes and gives."""
        return self.artifact.io

    def engine(self, **options: Any) -> Any:
        """Return an initialized :class:`OptimizedInferenceEngine` for it, with options of :class:`InferenceConfig`."""
        engines = importlib.import_module("workbench.engine.engine")  # the engine stands to the right of this
        return engines.OptimizedInferenceEngine.from_artifact(self.artifact, **{"backend": self._backend, **options})

    def predict(self, inputs: Any) -> Any:
        """Return the outputs for a batch ``[n, ...]`` of any size, in the structure the module gave.

        numpy arrays give numpy arrays, torch tensors give torch tensors. The ONNX file is loaded, and compared with
        what torch gave for the stored samples, by the first call.
        """
        if self._engine is None:
            self._engine = self.engine()
        return self._engine.predict_batch([inputs])[0].result if self.io.batch else self._engine.predict(inputs).result

    def close(self) -> None:
        """Free the loaded model; the next :meth:`predict` loads it again."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def __enter__(self) -> InferenceModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        task = self.artifact.manifest["task"].get("name")
        return f"InferenceModel({self.recipe.label!r} of task {task!r}, params={self.params:,}, inference only)"


@overload
def load_variant(folder: str | Path, task: Task | str, *, trust: bool = False) -> Variant: ...


@overload
def load_variant(folder: str | Path, task: None = None) -> InferenceModel: ...


def load_variant(
    folder: str | Path, task: Task | str | None = None, *, trust: bool = False
) -> Variant | InferenceModel:
    """Return a variant that :meth:`Variant.save` wrote; every file is checked against its hash first.

    Reading runs no code from the folder and uses no pickle, with two exceptions that must be asked for by ``trust``.

    Parameters
    ----------
    folder
        Where it was saved.
    task
        The task it was made for, or what :func:`workbench.load_task` understands. With it a :class:`Variant` comes
        back, whose module can be trained unless it is quantized. Without it an :class:`InferenceModel` comes back,
        which predicts from the ONNX file and imports no torch.
    trust
        A student of one's own (``Distill(student=...)``) is made by the function that the artefact names, and a module
        that no graph of plain operators describes is kept as a torch export program, a format that can run code while
        it is read. True allows both: only for a folder that you or your study wrote. Without it such a variant still
        runs from its ONNX file: leave the task out.

    Raises
    ------
    ArtifactError
        If a file is missing, cut or changed, the format is another, the task is not the one it was made for, or the
        module gives other outputs than when it was saved.

    Examples
    --------
    >>> wb.load_variant("artefacts/prune-0.5", wb.tasks.digits())  # doctest: +SKIP
    Variant('prune 0.5', params=80,234, macs=6,201,344, validation quality=0.9120)
    >>> wb.load_variant("artefacts/prune-0.5").predict(images)  # doctest: +SKIP
    """
    artifact = open_artifact(folder)
    if task is None:
        if trust:
            raise ArtifactError("trust=True is for a variant's torch module: give its task too.")
        return InferenceModel(artifact)
    with needing("load_variant with a task"):
        from workbench.tasks.load import load_task

    return _with_task(artifact, load_task(task), trust)


def _with_task(artifact: Artifact, task: Task, trust: bool) -> Variant:
    from workbench.artifact.load import load_module

    _check_task(artifact.folder, artifact.manifest["task"], task)
    module = load_module(artifact, task.model, trust=trust)
    variant = _variant(artifact.folder, artifact.manifest, module, task)
    if variant.recipe.student is not None and not trust:
        raise ArtifactError(
            f"The recipe of {artifact.folder} names the function {given(variant.recipe.student)} (Distill.student), "
            "and its variant would call it. Give trust=True if you or your study wrote this folder."
        )
    _check_outputs(artifact, variant)
    return variant


def load_prefix(folder: Path, task: Task, *, recipe_id: str) -> Variant:
    """Return a variant that :func:`workbench.artifact.save.save_prefix` wrote; ArtifactError as there."""
    from workbench.artifact.load import rebuild, start_of

    manifest = read_manifest(folder, needs=())
    _check_task(folder, manifest["task"], task)
    recipe = recipe_of(folder, manifest)
    if (recipe.recipe_id, recipe.student) != (recipe_id, manifest.get("base")):
        raise ArtifactError(f"{folder} holds another recipe than {recipe_id}.")
    start = start_of(folder, manifest, task.model, trust=True)  # a function of the recipe that was asked for
    return _variant(folder, manifest, rebuild(folder, start), task)


def _variant(folder: Path, manifest: Mapping[str, Any], module: Any, task: Task) -> Variant:
    from workbench.compress.variant import Variant

    return Variant(
        module=module,
        recipe=recipe_of(folder, manifest),
        reports=_reports(folder, manifest),
        task=task,
        quantized=manifest["quantized"],
        params=manifest["params"],
        macs=manifest["macs"],
        quality=float(manifest["validation_quality"]),
    )


def _check_task(folder: Path, written: Mapping[str, Any], task: Task) -> None:
    """Raise ArtifactError where ``task`` is not the one whose name, version and fingerprint were written."""
    if written.get("fingerprint") != task.fingerprint:
        raise ArtifactError(
            f"{folder} was made for the task {written.get('name')!r}, version {written.get('version')!r} (fingerprint "
            f"{written.get('fingerprint')}), and the one given is {task.name!r}, version {task.version!r} "
            f"({task.fingerprint}): its data, float weights or version differ, so that the reports would not be true "
            "of it. Give that task; or take the module alone: load_module(open_artifact(folder), task.build)."
        )


def recipe_of(folder: Path, manifest: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a manifest, or an ArtifactError that names the version it was written by."""
    try:
        return Recipe.from_dict(manifest["recipe"])
    except (WorkbenchError, TypeError, ValueError, KeyError) as error:
        raise ArtifactError(f"The recipe of {folder} cannot be used: {error} {_written_by(manifest)}") from error


def _reports(folder: Path, manifest: Mapping[str, Any]) -> tuple[StepReport, ...]:
    """Return the step reports of a manifest, or an ArtifactError that names the version it was written by."""
    from workbench.compress.variant import StepReport

    try:
        return tuple(StepReport.from_dict(step) for step in manifest["steps"])
    except (WorkbenchError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"The reports of {folder} cannot be used: {error} {_written_by(manifest)}") from error


def _written_by(manifest: Mapping[str, Any]) -> str:
    here = library_versions([_OURS])[_OURS]
    return f"It was written by {_OURS} {manifest['versions'].get(_OURS)}; this is {here}."


def _check_outputs(artifact: Artifact, variant: Variant) -> None:
    """Compare with what the module gave when it was saved: build() may have changed in a way that no shape shows."""
    import torch

    from workbench.tasks.trees import leaves

    stored = artifact.reference
    inputs = rebuild_inputs(artifact.io.kind, artifact.io.input_names, [torch.from_numpy(x) for x in stored.inputs])
    try:
        outputs = [np.asarray(leaf) for leaf in leaves(variant.predict(inputs))]
    except Exception as error:
        raise ArtifactError(f"The module of {artifact.folder} cannot run: {first_line(error)}") from error
    found = compare_outputs(stored.outputs, outputs)
    if found.problem:
        raise ArtifactError(
            f"The module of {artifact.folder} gives other outputs than when it was saved: {found.problem}. The code of "
            "the task's build() has changed since; use the code it was saved with."
        )
