"""Load a saved variant: a `Variant` if its task is given, an inference-only model otherwise. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.artifact.manifest import recipe_of
from workbench.core.errors import ArtifactError
from workbench.core.lazy import optional_import
from workbench.engine.engine import OptimizedInferenceEngine

if TYPE_CHECKING:
    from workbench.compress.variant import Variant
    from workbench.tasks.task import Task


class InferenceModel:
    """A saved variant without its task: predicts from the ONNX file and exposes the manifest's values.

    ``quality`` is the task's metric on the *validation* split when the variant was saved, ``macs`` the number of
    multiply-accumulates per sample. ``steps`` has a report per step of ``recipe``, as :meth:`StepReport.to_dict` wrote
    it. Further attributes are ``artifact``, ``io``, ``params`` and ``quantized``.
    """

    def __init__(self, artifact: Artifact, *, backend: str = "onnxruntime") -> None:
        if artifact.onnx_path is None:
            raise ArtifactError(
                f"{artifact.folder} has no ONNX file ({artifact.export_error}). Give the task: "
                "load_variant(folder, task)."
            )
        manifest = artifact.manifest
        self.artifact, self.io, self.quantized = artifact, artifact.io, artifact.quantized
        self.recipe = recipe_of(artifact.folder, manifest)
        self.steps: tuple[dict[str, Any], ...] = tuple(manifest["steps"])
        self.params, self.macs = manifest["params"], manifest["macs"]
        self.quality = float(manifest["validation_quality"])
        self._backend = backend
        self._engine: OptimizedInferenceEngine | None = None

    def engine(self, **options: Any) -> OptimizedInferenceEngine:
        """Return an initialized engine for the model, with options of :class:`InferenceConfig`."""
        return OptimizedInferenceEngine.from_artifact(self.artifact, **{"backend": self._backend, **options})

    def predict(self, inputs: Any) -> Any:
        """Return the outputs for a batch ``[n, ...]`` of any size, in the structure of the original module's outputs.

        numpy arrays give numpy arrays, torch tensors give torch tensors. The first call loads the ONNX file and
        validates it against the stored reference outputs.
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

    def __exit__(self, *_: object) -> None:
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
    """Load a variant that :meth:`Variant.save` wrote, after checking the hash of every file.

    With ``task`` (or its name or path) a :class:`Variant` is returned, whose module can be trained unless it is
    quantized. Without it an :class:`InferenceModel` is returned, which predicts from the ONNX file without torch.
    Reading runs no code from the folder and uses no pickle, unless ``trust`` allows it: the function of
    ``Distill(student=...)``, and torch export programs. Set it only for a folder that you or your study wrote.

    Raises ArtifactError if a file is missing or changed, the format or task does not match, or the module's outputs
    have changed.

    Examples
    --------
    >>> wb.load_variant("artifacts/prune-0.5", wb.tasks.digits())  # doctest: +SKIP
    Variant('prune 0.5', params=80,234, macs=6,201,344, validation quality=0.9120)
    >>> wb.load_variant("artifacts/prune-0.5").predict(images)  # doctest: +SKIP
    """
    artifact = open_artifact(folder)
    if task is None:
        if trust:
            raise ArtifactError("trust=True is for a variant's torch module: give its task too.")
        return InferenceModel(artifact)
    with optional_import("load_variant with a task"):
        from workbench.artifact.load import restore_variant
        from workbench.tasks.load import load_task

    return restore_variant(artifact, load_task(task), trust=trust)
