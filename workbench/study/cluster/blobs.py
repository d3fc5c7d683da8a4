"""What travels between a study and its workers: files under a name, told apart by the hash of their content."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.core.errors import StudyError
from workbench.core.files import atomic_write
from workbench.study.workers.prepare_client import Shipment

ARTIFACTS, TASK = "artifacts", "task"
_MARKS = "blobs"


@dataclass(frozen=True)
class Blob:
    """Files by their path within a study's folder; ``digest`` is the sha256 over paths and contents."""

    name: str
    digest: str
    files: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, name: str, files: Mapping[str, bytes]) -> Blob:
        """Return a parcel of these files.

        Examples
        --------
        >>> Parcel.of("a", {"x": b"1"}).digest == Parcel.of("b", {"x": b"1"}).digest
        True
        """
        ordered = tuple(sorted(files.items()))
        digest = hashlib.sha256()
        for path, content in ordered:
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        return cls(name, digest.hexdigest(), ordered)

    @property
    def size(self) -> int:
        """Bytes of all contents."""
        return sum(len(content) for _, content in self.files)


def artifact_blob(folder: Path, key: str) -> Blob:
    """Return what preparing a recipe left in a study's folder: its artefact, one more per fixed batch, and the note.

    Raises
    ------
    StudyError
        If it is not there.
    """
    root = folder / ARTIFACTS
    found = [root / f"{key}.json"]
    for artifact in (root / key, *root.glob(f"{key}-b*")):
        found += [path for path in artifact.rglob("*") if path.is_file()]
    try:
        return Blob.of(key, {path.relative_to(folder).as_posix(): path.read_bytes() for path in found})
    except OSError as error:
        raise StudyError(f"The artefact {key} cannot be read in {root}: {error.strerror}.") from error


def task_blob(shipment: Shipment) -> Blob:
    """Return a task ready to travel."""
    return Blob.of(TASK, {f"{TASK}/whole": shipment.task, f"{TASK}/build": shipment.build})


def read_task(folder: Path, fingerprint: str) -> Shipment:
    """Return the task that :func:`write_blob` wrote into a folder."""
    whole, build = ((folder / TASK / name).read_bytes() for name in ("whole", "build"))
    return Shipment(None, whole, build, fingerprint)


def write_blob(blob: Blob, folder: Path) -> None:
    """Write a parcel into a study's folder in place of what stood there under its name."""
    mark = folder / _MARKS / blob.name
    mark.unlink(missing_ok=True)  # what a kill leaves half written has no mark
    for top in {path.split("/")[1] for path, _ in blob.files if path.startswith(f"{ARTIFACTS}/")}:
        shutil.rmtree(folder / ARTIFACTS / top, ignore_errors=True)
    for path, content in blob.files:
        with atomic_write(folder / path) as temporary:
            temporary.write_bytes(content)
    note(blob, folder)


def note(blob: Blob, folder: Path) -> None:
    """Mark a parcel as being whole in a folder."""
    with atomic_write(folder / _MARKS / blob.name) as temporary:
        temporary.write_text(blob.digest, encoding="utf-8")


def held_blobs(folder: Path) -> dict[str, str]:
    """Return the digests of the parcels that lie whole in a folder, by name."""
    root = folder / _MARKS
    marks = [path for path in root.glob("*") if not path.name.startswith(".")] if root.is_dir() else []
    return {path.name: path.read_text(encoding="utf-8") for path in marks}
