"""Write files atomically, and hash them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError

_FULL = os.strerror(errno.ENOSPC)
_NOTHING = 2**16


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` in one step at the end of the block.

    Raises WorkbenchError if the folder cannot be written or the disk is full; ``path`` keeps its old content then.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        remedy = "Free some space." if error.errno == errno.ENOSPC else "Choose a folder you can write to."
        raise WorkbenchError(f"Cannot write {path}: {error.strerror}. {remedy}") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())  # mkstemp gives 0600
        os.replace(temporary, path)
    except OSError as error:
        raise WorkbenchError(f"Cannot write {path}: {_reason(error, path.parent)}. Nothing was changed.") from error
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(words: str) -> bool:
    """Return True if an error message is that of a full disk."""
    return _FULL in words


def _reason(error: OSError, folder: Path) -> str:
    """Return the reason of a failed write, which numpy's errors lack."""
    if error.strerror is not None:
        return error.strerror
    return _FULL if shutil.disk_usage(folder).free < _NOTHING else str(error)


def write_json(path: str | Path, value: Any, *, indent: int | None = None) -> None:
    """Write a JSON-ready value atomically; errors as :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent), encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


def cache_dir() -> Path:
    """Return the cache folder: ``WORKBENCH_CACHE`` if set, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("WORKBENCH_CACHE") or platformdirs.user_cache_dir("inference-workbench"))


def sha256_file(path: str | Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def writable_folder(folder: str | Path) -> Path:
    """Return ``folder`` as a path, created if missing, or raise WorkbenchError if it cannot be written."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WorkbenchError(
            f"Cannot write to the folder {folder}: {error.strerror}. Choose another folder or change its permissions."
        ) from error
    return folder


class TemporaryFolder:
    """A folder that is removed with the last reference to this object, or when the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="workbench-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
