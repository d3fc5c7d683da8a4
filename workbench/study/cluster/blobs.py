"""Blobs: files of a study's folder that are sent between a study and its workers, identified by a hash."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.core.errors import StudyError
from workbench.core.files import atomic_write
from workbench.study.workers.prepare_client import PackedTask

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
        """Return a blob of files.

        Examples
        --------
        >>> Blob.of("a", {"x": b"1"}).digest == Blob.of("b", {"x": b"1"}).digest
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
    """Return a prepared artifact of a study's folder: its files, one folder per fixed batch size, and the metadata."""
    root = folder / ARTIFACTS
    paths = [root / f"{key}.json"]
    for artifact in (root / key, *root.glob(f"{key}-b*")):
        paths += [path for path in artifact.rglob("*") if path.is_file()]
    try:
        return Blob.of(key, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    except OSError as error:
        raise StudyError(f"The artifact {key} cannot be read in {root}: {error.strerror}.") from error


def read_task(folder: Path, fingerprint: str) -> PackedTask:
    """Return the task that :func:`write_blob` wrote into a folder."""
    whole, build = ((folder / TASK / name).read_bytes() for name in ("whole", "build"))
    return PackedTask(None, whole, build, fingerprint)


def write_blob(blob: Blob, folder: Path) -> None:
    """Write a blob into a study's folder in place of an earlier one of its name."""
    (folder / _MARKS / blob.name).unlink(missing_ok=True)  # a blob that a kill leaves half written has no mark
    for top in {path.split("/")[1] for path, _ in blob.files if path.startswith(f"{ARTIFACTS}/")}:
        shutil.rmtree(folder / ARTIFACTS / top, ignore_errors=True)
    for path, content in blob.files:
        with atomic_write(folder / path) as temporary:
            temporary.write_bytes(content)
    mark_whole(blob, folder)


def mark_whole(blob: Blob, folder: Path) -> None:
    """Mark a blob as complete in a folder."""
    with atomic_write(folder / _MARKS / blob.name) as temporary:
        temporary.write_text(blob.digest, encoding="utf-8")


def held_blobs(folder: Path) -> dict[str, str]:
    """Return the digests of the blobs that are complete in a folder, by name."""
    root = folder / _MARKS
    marks = [path for path in root.glob("*") if not path.name.startswith(".")] if root.is_dir() else []
    return {path.name: path.read_text(encoding="utf-8") for path in marks}
