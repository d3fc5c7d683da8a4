"""Database URLs of studies: parsing, the folder of files, the connection, and remedies of its errors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Engine, make_url

from workbench.core.checks import given
from workbench.core.errors import StudyError, WorkbenchError
from workbench.core.files import cache_dir, writable_folder

LOCK_S = 30


def parse_url(url: object) -> URL:
    """Return the parts of a database URL; StudyError if it is not valid or has no file."""
    if not isinstance(url, str) or not url.strip():
        file = f"sqlite:///{url}" if isinstance(url, Path) else "sqlite:///study.db"
        raise StudyError(f"storage must be a database URL as text, got {given(url)}. For a file write {file!r}.")
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except exc.NoSuchModuleError as error:
        raise StudyError(
            f"storage {url!r}: unknown kind of database. Use for example 'sqlite:///study.db' or "
            "'postgresql+psycopg://user@host/name'."
        ) from error
    except exc.ArgumentError as error:
        raise StudyError(
            f"storage {url!r} is not a database URL. For a file write 'sqlite:///{url}' (three slashes, then the path)."
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StudyError(
            f"storage {url!r} is in memory, so a crash would lose it and children could not see it. "
            "Give a file: 'sqlite:///study.db'."
        )
    return parsed


def files_folder(url: URL) -> Path:
    """Return the folder for artifacts and raw samples, made if missing: next to a SQLite file, else in the cache."""
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database)).absolute()
        if path.is_dir():
            raise StudyError(f"storage: {path} is a folder. Give a file in it: 'sqlite:///{path}/study.db'.")
        folder = path.parent / f"{path.stem}_files"
    else:
        folder = cache_dir() / "studies" / hashlib.sha256(str(url).encode()).hexdigest()[:12]
    try:
        return writable_folder(folder)
    except WorkbenchError as error:
        raise StudyError(f"storage {url}: {error}") from error


def connect(url: URL) -> Engine:
    """Return the engine of a database; StudyError if its driver is missing."""
    try:
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, pool_pre_ping=True)
        # seconds to wait for another program's lock, unless the URL has one: sqlite:///study.db?timeout=5
        wait = {} if "timeout" in url.query else {"timeout": LOCK_S}
        path = str(Path(str(url.database)).absolute())  # a later chdir must not lead to another file
        engine = sa.create_engine(url.set(database=path), connect_args=wait)
    except ModuleNotFoundError as error:
        raise StudyError(f"storage {url}: the driver {error.name!r} is not installed. pip install it.") from error
    sa.event.listen(engine, "connect", tune_sqlite)
    return engine


def tune_sqlite(connection: Any, _record: object) -> None:
    """Set a new connection to SQLite so that readers and writers do not wait for each other."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers and the heartbeat do not wait for a writer
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def advice(cause: str) -> str:
    """Return the remedy for an error of the database."""
    words = {
        "not a database": "Give the path of a SQLite file, or of a file that does not exist yet.",
        "readonly": "Change its rights, or give another file.",
        "locked": "Another program keeps it locked; close that one and run again.",
        "full": "Free some space and run again; what is complete is kept.",
    }
    return next((advice for part, advice in words.items() if part in cause), "Check the address and the rights.")
