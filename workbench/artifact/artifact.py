"""Open a variant on disk: checked by hash, and without torch."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.artifact.reference import Reference
from workbench.core.errors import ArtifactError
from workbench.core.files import sha256_file
from workbench.export.io import IOSpec

FORMAT = 1
MANIFEST = "manifest.json"
ONNX = "model.onnx"
IO = "io.json"
REFERENCE = "reference.npz"
WEIGHTS = "weights.safetensors"
STRUCTURE = "structure.json"
PROGRAM = "exported.pt2"


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
    folder = Path(folder)
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        _check_file(folder, name, expected)
    return Artifact(folder, manifest, IOSpec.read(folder / IO))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        what = "is no folder" if not folder.is_dir() else f"holds no {MANIFEST}"
        raise ArtifactError(f"{folder} is not an artefact: it {what}. Write one with save_variant(variant, folder).")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
        complete = all(key in manifest for key in ("files", "quantized", "export")) and IO in manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} cannot be read as a manifest: {error!r}. Write the artefact again.") from error
    if found != FORMAT:
        raise ArtifactError(
            f"{folder} has artefact format {found!r}; this version reads {FORMAT}. Write it again with save_variant."
        )
    if not complete:
        raise ArtifactError(f"{path} is incomplete. Write the artefact again.")
    return dict(manifest)


def _check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    path = folder / name
    if Path(name).name != name:
        raise ArtifactError(
            f"{folder / MANIFEST} names the file {name!r} outside its folder. Do not use this artefact."
        )
    if not path.is_file():
        raise ArtifactError(f"The artefact {folder} lacks its file {name}. Write the artefact again.")
    if path.stat().st_size != expected["bytes"] or sha256_file(path) != expected["sha256"]:
        raise ArtifactError(
            f"{path} is not the file that was written with this artefact (its sha256 differs). "
            "Write the artefact again, or get an undamaged copy."
        )
