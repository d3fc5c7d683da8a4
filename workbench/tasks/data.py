"""Files that ship with the workbench, and the proof that they are the right ones."""

from __future__ import annotations

import functools
from pathlib import Path

from workbench.core.errors import TaskError
from workbench.core.files import sha256_file


def data_dir() -> Path:
    """Return the folder of the shipped data: inside the installed package, or ``data/`` of a source checkout.

    Raises
    ------
    TaskError
        If neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "_data", package.parent / "data")
    for folder in candidates:
        if (folder / "digits.npz").is_file():
            return folder
    looked = " and ".join(map(str, candidates))
    raise TaskError(f"The built-in data is missing: no digits.npz in {looked}. Install the package again.")


_RESTORE = (
    "Restore it from git, or, if you made it again on purpose, put the new sum into the table in workbench/tasks."
)


@functools.lru_cache
def checked_file(path: Path, sha256: str, *, advice: str = _RESTORE) -> Path:
    """Return ``path`` if its content has this sha256; the answer is remembered.

    Raises
    ------
    TaskError
        If the file is missing or its content differs; ``advice`` says what to do then.
    """
    if not path.is_file():
        raise TaskError(f"{path} is missing. Install the package again, or restore the file from git.")
    found = sha256_file(path)
    if found != sha256:
        raise TaskError(f"{path} is damaged or changed: its sha256 is {found}, expected {sha256}. {advice}")
    return path
