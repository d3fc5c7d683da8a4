"""Locate and verify the shipped data files."""

from __future__ import annotations

import functools
from pathlib import Path

from workbench.core.errors import TaskError
from workbench.core.files import sha256_file


def data_dir() -> Path:
    """Return the data folder: in the installed package, or ``data/`` of a checkout; TaskError if both are missing."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "_data", package.parent / "data")
    for folder in candidates:
        if (folder / "digits.npz").is_file():
            return folder
    folders = " and ".join(map(str, candidates))
    raise TaskError(f"The built-in data is missing: no digits.npz in {folders}. Install the package again.")


_RESTORE = "Restore it from git. If you rebuilt it on purpose, update its sha256 in workbench/tasks."


@functools.lru_cache
def verify_file(path: Path, sha256: str, *, advice: str = _RESTORE) -> Path:
    """Return ``path`` if its content has this sha256, else raise TaskError with ``advice``; the result is cached."""
    if not path.is_file():
        raise TaskError(f"{path} is missing. Install the package again, or restore the file from git.")
    digest = sha256_file(path)
    if digest != sha256:
        raise TaskError(f"{path} is damaged or changed: its sha256 must be {sha256}, got {digest}. {advice}")
    return path
