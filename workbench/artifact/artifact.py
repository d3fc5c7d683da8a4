"""Open an artifact (a variant on disk) without torch, checked by hash."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.artifact.manifest import IO, ONNX, PROGRAM, REFERENCE, WEIGHTS, read_manifest
from workbench.artifact.reference import Reference
from workbench.core.checks import require_path
from workbench.core.errors import ArtifactError
from workbench.export.io import IOSpec


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A variant on disk: the folder, its ``manifest.json``, and the inputs and outputs of the model.

    The manifest has recipe, task, params, macs, validation quality, step reports, export notes, library versions and
    the hash of every file.
    """

    folder: Path
    manifest: Mapping[str, Any]
    io: IOSpec

    @property
    def onnx_path(self) -> Path | None:
        """The ONNX file, or None if the export failed: see :attr:`export_error`."""
        return self.folder / ONNX if ONNX in self.manifest["files"] else None

    @property
    def export_error(self) -> str | None:
        """The error of the ONNX export, or None."""
        return self.manifest["export"].get("error")  # type: ignore[no-any-return]

    @property
    def quantized(self) -> bool:
        """True if the model is quantized."""
        return bool(self.manifest["quantized"])

    @property
    def size_mib(self) -> float:
        """Size of the model file in MiB: the ONNX file, or the weights if there is none."""
        files = self.manifest["files"]
        for name in (ONNX, WEIGHTS, PROGRAM):
            if name in files:
                return float(files[name]["bytes"]) / 2**20
        raise ArtifactError(f"The artifact {self.folder} has no model file.")

    def __repr__(self) -> str:
        task = self.manifest["task"].get("name")
        return f"Artifact({str(self.folder)!r}, task {task!r}, params={self.manifest['params']:,})"

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the export, for example a fixed batch size."""
        return tuple(self.manifest["export"].get("notes", ()))

    @functools.cached_property
    def reference(self) -> Reference:
        """A small batch with torch's outputs."""
        return Reference.read(self.folder / REFERENCE)


def open_artifact(folder: str | Path) -> Artifact:
    """Open an artifact and check every file against the manifest.

    Raises
    ------
    ArtifactError
        If the folder is not an artifact, has another format, or a file is missing or changed.

    Examples
    --------
    >>> open_artifact("artifacts/prune-0.5").io.dynamic_batch
    True
    """
    folder = require_path("An artifact's folder", folder, error=ArtifactError)
    manifest = read_manifest(folder, needs=(IO, REFERENCE))
    return Artifact(folder, manifest, IOSpec.read(folder / IO))
