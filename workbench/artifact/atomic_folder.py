"""Write a whole folder or nothing: a temporary one takes its place when it is complete."""

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
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)  # by an artefact that must make room first


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that takes its place when the block ends well.

    An artefact that was there stays until then, and comes back when the last moment fails. Of two writers at once
    each writes a whole artefact, and the later one stays.

    Raises
    ------
    ArtifactError
        If ``folder`` holds something else, or cannot be written: no rights, no space.
    """
    _refuse_other(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ArtifactError(f"Cannot write {folder}: {error.strerror}. Choose a folder you can write to.") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        _take_place(temporary, folder)
    except (OSError, WorkbenchError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(error, ArtifactError) or not isinstance(cause, OSError):
            raise
        raise ArtifactError(f"Cannot write {folder}: {cause.strerror or cause}. {_advice(folder, cause)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, folder: Path) -> None:
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        for _ in range(_TRIES):
            try:
                os.replace(temporary, folder)
                return
            except OSError as error:
                if error.errno not in _OCCUPIED and not folder.exists():
                    raise
            _refuse_other(folder)
            shutil.rmtree(old, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):  # another writer has moved it
                os.replace(folder, old)
        raise OSError(errno.EBUSY, "other processes keep writing it")
    except OSError:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _refuse_other(folder: Path) -> None:
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
        if _identity(folder) == before:  # else another writer took it away, or emptied it, while it was read
            break
    raise ArtifactError(f"{folder} exists and is not an artefact. Choose another folder; nothing was changed.")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _advice(folder: Path, error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    kept = "The artefact that was there is unchanged." if folder.exists() else "Nothing was kept."
    return f"{kept} Free some space, or choose another folder." if full else kept
