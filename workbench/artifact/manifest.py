"""Manifest of an artifact: contents, the hash of every file, and its own digest. Torch-free."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.core.checks import short_repr
from workbench.core.errors import ArtifactError, WorkbenchError
from workbench.core.files import sha256_file
from workbench.core.machine import library_versions

FORMAT = 3
_READ = (2, 3)
"""Readable formats; 2 stored every quantized module as a program."""
MANIFEST = "manifest.json"
ONNX = "model.onnx"
IO = "io.json"
REFERENCE = "reference.npz"
WEIGHTS = "weights.safetensors"
STRUCTURE = "structure.json"
GRAPH = "graph.json"
PROGRAM = "exported.pt2"
FILES = (ONNX, IO, REFERENCE, WEIGHTS, STRUCTURE, GRAPH, PROGRAM)

_PACKAGE = "inference-workbench"
_MAX_BYTES = 64 * 2**20
_AGAIN = "Save the variant again with variant.save(folder), or get an undamaged copy."
_TEXT, _MAYBE = (str,), (str, type(None))
_SCHEMA: dict[str, Any] = {
    "recipe": {"steps": [{"step": _TEXT}], "name": _MAYBE},
    "recipe_id": _TEXT,
    "label": _TEXT,
    "technique": _TEXT,
    "task": {"name": _TEXT, "version": _TEXT, "fingerprint": _TEXT},
    "quantized": (bool,),
    "params": (int,),
    "macs": (int,),
    "validation_quality": (int, float),
    "steps": [{"notes": [_TEXT], "layers": [{}]}],
    "export": {"error": _MAYBE, "notes": [_TEXT]},
    "replayable": (bool,),
    "replay_reason": _MAYBE,
    "machine": {"cpu_model": _MAYBE, "isa": [_TEXT]},
    "versions": {},
    "files": {},
}
"""Required keys, with the schema of what is read unchecked: types, lists of a schema, keys of objects."""


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the manifest of the files in ``folder``. Call it last: a folder without manifest is incomplete."""
    files = {p.name: {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, **values, "files": files}
    manifest["digest"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, needs: Collection[str]) -> dict[str, Any]:
    """Return the manifest of a folder after checking it and every file that it names.

    The hashes detect damage and careless edits. They are not a signature: nothing that is read afterwards may run code.
    Raises ArtifactError if the folder is not an artifact or has another format, or if a file (of ``needs`` too) is
    missing, a link or changed.
    """
    manifest = _parse(folder)
    _check_format(folder, manifest.get("format"))
    if manifest.pop("digest", None) != _digest(manifest):
        raise ArtifactError(f"{folder / MANIFEST} was changed after it was written (its digest differs). {_AGAIN}")
    bad = next((key for key in _SCHEMA if key not in manifest), None) or mismatch(manifest, {**_SCHEMA, "base": _MAYBE})
    if bad is not None:
        raise ArtifactError(f"{folder / MANIFEST} has no usable {bad}. {_AGAIN}")
    files = manifest["files"]
    for name in (*needs, *module_files(manifest)):
        if name not in files:
            raise ArtifactError(f"{folder / MANIFEST} is incomplete: it does not name {name}. {_AGAIN}")
    for name, expected in files.items():
        _check_file(folder, name, expected)
    return manifest


def mismatch(value: Any, schema: Any, where: str = "") -> str | None:
    """Return the path of the first part of ``value`` that does not match the schema, or None."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return where
        parts = [(value[key], part, f"{where}.{key}".lstrip(".")) for key, part in schema.items() if key in value]
    elif isinstance(schema, list):
        if not isinstance(value, list):
            return where
        parts = [(item, schema[0], f"{where}.{index}") for index, item in enumerate(value)]
    else:
        valid = bool in schema if isinstance(value, bool) else isinstance(value, schema)
        return None if valid else where
    return next((bad for part in parts if (bad := mismatch(*part)) is not None), None)


def module_files(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the torch module's files."""
    if manifest["replayable"]:
        return STRUCTURE, WEIGHTS
    if manifest["export"].get("is_module"):
        return (ONNX,)
    return (GRAPH, WEIGHTS) if GRAPH in manifest["files"] else (PROGRAM,)


def recipe_of(folder: Path, manifest: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a manifest; ArtifactError if this version of the package cannot read it."""
    try:
        return Recipe.from_dict(manifest["recipe"])
    except (WorkbenchError, TypeError, ValueError, KeyError) as error:
        raise ArtifactError(f"The recipe of {folder} cannot be used: {error} {version_note(manifest)}") from error


def version_note(manifest: Mapping[str, Any]) -> str:
    """Return a sentence with the package versions of the writer and of this reader."""
    here = library_versions([_PACKAGE])[_PACKAGE]
    return f"It was written by {_PACKAGE} {manifest['versions'].get(_PACKAGE)}; this is {here}."


def _parse(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise ArtifactError(f"{folder} is not an artifact: it {problem}. Write one with variant.save(folder).")
    if not path.is_symlink() and not path.exists():
        raise ArtifactError(
            f"{folder} is not an artifact: it has no {MANIFEST}, which is written last. Save a variant with "
            "variant.save(folder)."
        )
    size = _regular_size(folder, path)
    if size > _MAX_BYTES:
        raise ArtifactError(f"{path} is too large for a manifest ({size:,} bytes). {_AGAIN}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as a manifest: {short_repr(str(error))}. {_AGAIN}") from error
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{path} cannot be read as a manifest: it is not a JSON object. {_AGAIN}")
    return manifest


def _check_format(folder: Path, value: object) -> None:
    number = value if type(value) is int else -1
    if number in _READ:
        return
    newer = " (written by a newer workbench)" if number > FORMAT else ""
    remedy = "Update inference-workbench, or save the variant again." if newer else "Save the variant again."
    raise ArtifactError(
        f"{folder / MANIFEST} has artifact format {short_repr(value)}{newer}; this version reads {FORMAT}. {remedy}"
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_file(folder: Path, name: str, expected: object) -> None:
    if name not in FILES:
        problem = "outside its folder" if Path(name).name != name else "that artifacts do not have"
        raise ArtifactError(
            f"{folder / MANIFEST} names the file {short_repr(name)} {problem}. Do not use this artifact."
        )
    entry = expected if isinstance(expected, dict) else {}
    size, sha256 = entry.get("bytes"), entry.get("sha256")
    if type(size) is not int or size < 0 or not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ArtifactError(f"{folder / MANIFEST} has no usable size and sha256 of {name}. {_AGAIN}")
    path = folder / name
    actual = _regular_size(folder, path)
    if actual != size:
        raise ArtifactError(
            f"{path} was changed after it was written: {actual:,} bytes instead of {short_repr(size)}. {_AGAIN}"
        )
    try:
        same = sha256_file(path) == sha256
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    if not same:
        raise ArtifactError(f"{path} was changed after it was written (its sha256 differs). {_AGAIN}")


def _regular_size(folder: Path, path: Path) -> int:
    """Return the size of a regular file; a link is refused, because its target may change after the check."""
    try:
        status = path.lstat()
    except OSError as error:
        raise ArtifactError(f"The artifact {folder} lacks its file {path.name}. {_AGAIN}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise ArtifactError(f"{path} is {kind}; artifacts hold regular files only. Copy the file itself there.")
    return status.st_size
