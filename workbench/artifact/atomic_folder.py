"""Write a folder atomically: a temporary one replaces it when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workbench.artifact.manifest import MANIFEST
from workbench.core.errors import ArtifactError, WorkbenchError

_TRIES = 100
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)  # by an artifact, which is moved away first


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``folder`` that replaces it if the block succeeds.

    An existing artifact stays until then, and is restored if the replacement fails. Of two concurrent writers the later
    one wins. Raises ArtifactError if ``folder`` is not an artifact, or cannot be written.
    """
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ArtifactError(f"Cannot write {folder}: {error.strerror}. Choose a folder you can write to.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        _replace(temporary, folder)
    except (OSError, WorkbenchError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(error, ArtifactError) or not isinstance(cause, OSError):
            raise
        raise ArtifactError(f"Cannot write {folder}: {cause.strerror or cause}. {_advice(folder, cause)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, folder: Path) -> None:
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        for _ in range(_TRIES):
            try:
                os.replace(temporary, folder)
                return
            except OSError as error:
                if error.errno not in _OCCUPIED and not folder.exists():
                    raise
            _refuse_foreign(folder)
            shutil.rmtree(old, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):  # moved by another writer
                os.replace(folder, old)
        raise OSError(errno.EBUSY, "other processes keep writing it")
    except OSError:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    for _ in range(_TRIES):
        before = _identity(folder)
        if before is None:
            return
        try:
            names = [path.name for path in folder.iterdir()]
        except NotADirectoryError:
            break
        except FileNotFoundError:
            continue
        if not names or MANIFEST in names:
            return
        if _identity(folder) == before:  # else another writer changed it meanwhile
            break
    raise ArtifactError(f"{folder} exists and is not an artifact. Choose another folder; nothing was changed.")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _advice(folder: Path, error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    state = "The existing artifact is unchanged." if folder.exists() else "Nothing was written."
    return f"{state} Free some space, or choose another folder." if full else state
