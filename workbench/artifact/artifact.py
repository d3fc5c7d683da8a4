"""Open a variant on disk: checked by hash, and without torch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.artifact.manifest import IO, ONNX, PROGRAM, REFERENCE, WEIGHTS, read_manifest
from workbench.artifact.reference import Reference
from workbench.core.checks import require_path
from workbench.core.errors import ArtifactError
from workbench.export.io import IOSpec, tree_builder


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A variant on disk.

    Attributes
    ----------
    folder
        Where its files are.
    manifest
        Content of ``manifest.json``: recipe, task, params, macs, validation quality, step reports, export notes,
        library versions and the hash of every file.
    io
        What the model takes and gives.
    """

    folder: Path
    manifest: Mapping[str, Any]
    io: IOSpec

    @property
    def onnx_path(self) -> Path | None:
        """The ONNX file, or None where the module could not be exported: see :attr:`export_error`."""
        return self.folder / ONNX if ONNX in self.manifest["files"] else None

    @property
    def export_error(self) -> str | None:
        """Why there is no ONNX file, or None where there is one."""
        return self.manifest["export"].get("error")  # type: ignore[no-any-return]

    @property
    def quantized(self) -> bool:
        """True where rounding to integers is part of the model."""
        return bool(self.manifest["quantized"])

    @property
    def size_mib(self) -> float:
        """Size of the model file in MiB: the ONNX file, or the weights where there is none."""
        files = self.manifest["files"]
        for name in (ONNX, WEIGHTS, PROGRAM):
            if name in files:
                return float(files[name]["bytes"]) / 2**20
        raise ArtifactError(f"The artefact {self.folder} holds no model file.")

    def __repr__(self) -> str:
        task = self.manifest["task"].get("name")
        return f"Artifact({str(self.folder)!r}, task {task!r}, params={self.manifest['params']:,})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a row about this artefact must say, for example that its batch size is fixed."""
        return tuple(self.manifest["export"].get("notes", ()))

    @functools.cached_property
    def reference(self) -> Reference:
        """A small batch and what torch gave for it."""
        return Reference.read(self.folder / REFERENCE)


def open_artifact(folder: str | Path) -> Artifact:
    """Open an artefact and check every file against the manifest.

    Raises
    ------
    ArtifactError
        If the folder is no artefact, is of another format, or a file is missing or was changed; the file is named.

    Examples
    --------
    >>> open_artifact("artefacts/prune-0.5").io.dynamic_batch
    True
    """
    folder = require_path("An artefact's folder", folder, error=ArtifactError)
    manifest = read_manifest(folder, needs=(IO, REFERENCE))
    return Artifact(folder, manifest, _read_io(folder / IO))


def _read_io(path: Path) -> IOSpec:
    try:
        io = IOSpec.read(path)
        tree_builder(io.output_tree)(io.outputs)
        io.describe_inputs()
        whole = [isinstance(s.name, str) and np.dtype(s.dtype).kind in "biufc" for s in (*io.inputs, *io.outputs)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArtifactError) as error:
        said = error if isinstance(error, ArtifactError) else repr(error)
        raise ArtifactError(
            f"{path} does not describe a model's inputs and outputs: {str(said).rstrip('.')}."
        ) from error
    if not io.inputs or not io.outputs or not all(whole):
        raise ArtifactError(f"{path} does not describe a model's inputs and outputs: one of them is no array.")
    return io
