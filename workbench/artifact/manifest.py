"""The manifest of an artefact: what it holds, the hash of every file, and one over itself. No torch."""

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
"""Formats that are read: 2 had no graphs, and kept every quantized module as a program."""
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
_AGAIN = "Write the artefact again with variant.save(folder), or get an undamaged copy."
_NUMBER = (int, float)
_KINDS: dict[str, type | tuple[type, ...]] = {
    "recipe": dict,
    "recipe_id": str,
    "label": str,
    "technique": str,
    "task": dict,
    "quantized": bool,
    "params": int,
    "macs": int,
    "validation_quality": _NUMBER,
    "steps": list,
    "export": dict,
    "replayable": bool,
    "replay_reason": (str, type(None)),
    "machine": dict,
    "versions": dict,
    "files": dict,
}
_TEXT, _MAYBE = (str,), (str, type(None))
_FORM: dict[str, Any] = {
    "label": _TEXT,
    "task": {"name": _TEXT, "version": _TEXT, "fingerprint": _TEXT},
    "recipe": {"steps": [{"step": _TEXT}], "name": _MAYBE},
    "steps": [{"notes": [_TEXT], "layers": [{}]}],
    "export": {"error": _MAYBE, "notes": [_TEXT]},
    "machine": {"cpu_model": _MAYBE, "isa": [_TEXT]},
    "versions": {},
    "base": _MAYBE,
}
"""The form of what is read of a manifest without looking again: types, lists of a form, and the keys of objects."""


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the manifest of the files that lie in ``folder`` by now; it comes last, so that it makes them complete."""
    files = {p.name: {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    whole = {"format": FORMAT, **values, "files": files}
    whole["digest"] = _digest(whole)
    (folder / MANIFEST).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, needs: Collection[str]) -> dict[str, Any]:
    """Return the manifest of a folder after checking it and every file that it names.

    The hashes tell damage and careless edits. They are no signature: who wants to deceive can make them again, so
    nothing that is read afterwards may run code.

    Parameters
    ----------
    needs
        Files that must be among those it names.

    Raises
    ------
    ArtifactError
        If the folder is no artefact, is of another format, or a file is missing, a link or changed; it is named.
    """
    manifest = _parsed(folder)
    _check_format(folder, manifest.get("format"))
    if manifest.pop("digest", None) != _digest(manifest):
        raise ArtifactError(
            f"{folder / MANIFEST} is not what was written with this artefact (its digest differs). {_AGAIN}"
        )
    for key, kind in _KINDS.items():
        value = manifest.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ArtifactError(f"{folder / MANIFEST} has no usable {key!r}: {short_repr(value)}. {_AGAIN}")
    bad = unfit(manifest, _FORM)
    if bad is not None:
        raise ArtifactError(f"{folder / MANIFEST} has no usable {bad}. {_AGAIN}")
    files = manifest["files"]
    for name in (*needs, *module_files(manifest)):
        if name not in files:
            raise ArtifactError(f"{folder / MANIFEST} is incomplete: it does not name {name}. {_AGAIN}")
    for name, expected in files.items():
        _check_file(folder, name, expected)
    return manifest


def unfit(value: Any, form: Any, where: str = "") -> str | None:
    """Return the path of the first part of ``value`` that does not have its form, None if all have.

    Examples
    --------
    >>> unfit({"isa": ["avx2", 3]}, {"isa": [(str,)]})
    'isa.1'
    """
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return where or "content"
        parts = [(value[key], part, f"{where}.{key}".lstrip(".")) for key, part in form.items() if key in value]
    elif isinstance(form, list):
        if not isinstance(value, list):
            return where
        parts = [(item, form[0], f"{where}.{index}") for index, item in enumerate(value)]
    else:
        return None if isinstance(value, form) else where
    return next((bad for part in parts if (bad := unfit(*part)) is not None), None)


def module_files(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the files that the torch module is made from."""
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


def _parsed(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise ArtifactError(f"{folder} is not an artefact: it {what}. Write one with variant.save(folder).")
    if not path.is_symlink() and not path.exists():
        raise ArtifactError(
            f"{folder} is not an artefact: it holds no {MANIFEST}, which is written last. If a save was interrupted "
            "here, save again; else write one with variant.save(folder)."
        )
    size = _regular_size(folder, path)
    if size > _MAX_BYTES:
        raise ArtifactError(f"{path} has {size:,} bytes, more than any manifest. {_AGAIN}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as a manifest: {short_repr(str(error))}. {_AGAIN}") from error
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{path} cannot be read as a manifest: it is no JSON object. {_AGAIN}")
    return manifest


def _check_format(folder: Path, found: object) -> None:
    if isinstance(found, int) and not isinstance(found, bool) and found in _READ:
        return
    if isinstance(found, int) and not isinstance(found, bool) and found > FORMAT:
        raise ArtifactError(
            f"{folder} was written by a newer workbench: artefact format {short_repr(found)}, and this version reads "
            f"{FORMAT}. Update inference-workbench, or save the variant again with this version."
        )
    raise ArtifactError(
        f"{folder / MANIFEST} has artefact format {short_repr(found)}; this version reads {FORMAT}. Save the variant "
        "again with variant.save(folder)."
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_file(folder: Path, name: str, expected: object) -> None:
    if name not in FILES:
        where = "outside its folder" if Path(name).name != name else "that no artefact has"
        raise ArtifactError(f"{folder / MANIFEST} names the file {short_repr(name)} {where}. Do not use this artefact.")
    entry = expected if isinstance(expected, dict) else {}
    size, hexed = entry.get("bytes"), entry.get("sha256")
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not whole or not isinstance(hexed, str) or not re.fullmatch("[0-9a-f]{64}", hexed):
        raise ArtifactError(f"{folder / MANIFEST} has no usable size and sha256 of {name}. {_AGAIN}")
    path = folder / name
    found = _regular_size(folder, path)
    if found != size:
        raise ArtifactError(
            f"{path} has {found:,} bytes instead of {short_repr(size)}: it was cut or changed after it was "
            f"written. {_AGAIN}"
        )
    try:
        same = sha256_file(path) == hexed
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from error
    if not same:
        raise ArtifactError(
            f"{path} is not the file that was written with this artefact (its sha256 differs). {_AGAIN}"
        )


def _regular_size(folder: Path, path: Path) -> int:
    """Return the size of a file that is no link: a link could lead anywhere, and change after the check."""
    try:
        found = path.lstat()
    except OSError as error:
        raise ArtifactError(f"The artefact {folder} lacks its file {path.name}. {_AGAIN}") from error
    if not stat.S_ISREG(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no regular file"
        raise ArtifactError(f"{path} is {what}; an artefact holds plain files. Copy the file itself there.")
    return found.st_size
