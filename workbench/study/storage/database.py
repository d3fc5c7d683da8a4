"""The database of trials: one table that is the truth, shared by any number of processes without double work.

Our tables are called ``workbench_*``, since Optuna keeps a table ``trials`` of its own in the same database.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import sys
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from workbench.core.config import without_nan
from workbench.core.errors import StudyError, first_line
from workbench.core.untrusted import one_line
from workbench.study.config import QUALITY_DROP
from workbench.study.results.schema import TrialRow, checked_row
from workbench.study.storage.url import connect, files_folder, parse_url

SCHEMA_VERSION = 1
STALE_S = 30.0
_ATTEMPTS = 3

_METADATA = sa.MetaData()
TRIALS = sa.Table(
    "workbench_trials",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("study", sa.String(200), nullable=False),
    sa.Column("trial_key", sa.String(64), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(200)),
    sa.Column("heartbeat", sa.Float),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Column("row", sa.Text, nullable=False),
    sa.UniqueConstraint("study", "trial_key"),
)
SETTINGS = sa.Table(
    "workbench_settings",
    _METADATA,
    sa.Column("study", sa.String(200), primary_key=True),
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_SCHEMA_KEY = {"study": "", "name": "schema_version"}


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the database holds it; ``owner`` is the run that works on it, ``updated`` is in seconds since 1970."""

    key: str
    row: TrialRow
    state: str
    owner: str | None
    heartbeat: float | None
    updated: float


class TakenOver(StudyError):
    """Another run has a trial by now."""


def new_owner() -> str:
    """Return a name for one run: host, process and a random part."""
    return f"{_processes()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@functools.cache
def _processes() -> str:
    """Return whose numbers of processes ours is one of: the host's, since when it runs, and in which container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
        parts.append(Path("/proc/self/ns/pid").readlink().name.strip("pid:[]"))
    return "/".join(parts)


def is_stale(owner: str, heartbeat: float | None, *, now: float | None = None) -> bool:
    """Say whether a run is dead: its process is gone from this host, or it has not been heard of for 30 s.

    Of a process in another container of this host nothing but its sign of life is known.
    """
    import psutil

    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host == _processes() and rest.isdigit() and not psutil.pid_exists(int(rest)):
        return True
    return heartbeat is None or (time.time() if now is None else now) - heartbeat > STALE_S


class Store:
    """Open the database at ``url``, making tables where they are missing.

    Raises
    ------
    StudyError
        If the URL cannot be understood, the folder cannot be written, the file is no database, or the tables were
        written by another version.
    """

    def __init__(self, url: str) -> None:
        parsed = parse_url(url)
        self.url = url
        self._closed = False
        self.files = files_folder(parsed)
        self._engine = connect(parsed)
        with self._explained():
            self._create()

    def add(self, study: str, rows: Mapping[str, TrialRow]) -> None:
        """Insert rows whose key is not there yet; those that are there stay as they are."""
        with self._begin() as connection:
            known = set(connection.scalars(sa.select(TRIALS.c.trial_key).where(TRIALS.c.study == study)))
        now = time.time()
        for position, (key, row) in enumerate(rows.items()):
            if key not in known:
                values = {"study": study, "trial_key": key, "position": position, "updated": now, **_columns(row)}
                # two runs may insert at the same moment: the unique key decides, and one copy is enough
                with contextlib.suppress(exc.IntegrityError), self._begin() as connection:
                    connection.execute(TRIALS.insert().values(**values))

    def studies(self) -> list[str]:
        """Return the names of the studies that have trials."""
        with self._begin() as connection:
            return list(connection.scalars(sa.select(TRIALS.c.study).distinct().order_by(TRIALS.c.study)))

    def load(self, study: str, keys: Iterable[str] | None = None) -> dict[str, StoredTrial]:
        """Return the trials of a study by key, in the order they were planned."""
        query = sa.select(TRIALS).where(TRIALS.c.study == study).order_by(TRIALS.c.position, TRIALS.c.id)
        if keys is not None:
            query = query.where(TRIALS.c.trial_key.in_(list(keys)))
        with self._begin() as connection:
            found = connection.execute(query).mappings().all()
        return {
            key: StoredTrial(key, self._row(study, key, r["row"]), r["state"], r["owner"], r["heartbeat"], r["updated"])
            for r in found
            for key in [r["trial_key"]]
        }

    def all_complete(self, study: str, keys: Collection[str]) -> bool:
        """Return whether a study has these trials, all complete."""
        stored = self.load(study, keys)
        return len(stored) == len(set(keys)) and all(trial.state == "complete" for trial in stored.values())

    def _row(self, study: str, key: str, text: str) -> TrialRow:
        """Return a row of the database after checking it: anybody may have written the file."""
        where = f"{self.url}: trial {one_line(key)!r} of study {one_line(study)!r}"
        try:
            found = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise StudyError(f"{where} is not a row of a study: it is not JSON.") from error
        return checked_row(found, where)

    def merge(self, study: str, rows: Mapping[str, TrialRow]) -> tuple[int, int]:
        """Take rows in that were measured elsewhere; return how many are new, and how many replaced an older one.

        What this study has timed itself, whose raw samples lie here, stays; so does what a run works on.
        """
        before = self.load(study, rows)
        self.add(study, rows)
        replaced = 0
        for key, old in before.items():
            own = old.owner is not None or (old.state == "complete" and old.row["samples"] is not None)
            if not own and old.row != rows[key]:
                replaced += 1
                with self._begin() as connection:
                    connection.execute(
                        TRIALS.update()
                        .where(TRIALS.c.study == study, TRIALS.c.trial_key == key, TRIALS.c.owner.is_(None))
                        .values(updated=time.time(), **_columns(rows[key]))
                    )
        return len(rows) - len(before), replaced

    def claim(self, study: str, keys: Iterable[str], owner: str) -> set[str]:
        """Take the trials that nobody owns, or whose owner is dead; return the keys that are now ours.

        Complete trials are never taken. Each take compares and swaps in one statement, so that of two runs only
        one gets a trial.
        """
        taken = set()
        for key, trial in self.load(study, keys).items():
            if trial.owner is not None and not is_stale(trial.owner, trial.heartbeat):
                continue
            same_owner = TRIALS.c.owner.is_(None) if trial.owner is None else TRIALS.c.owner == trial.owner
            with self._begin() as connection:
                changed = connection.execute(
                    TRIALS.update()
                    .where(TRIALS.c.study == study, TRIALS.c.trial_key == key)
                    .where(same_owner, TRIALS.c.state != "complete")
                    .values(owner=owner, heartbeat=time.time())
                )
            if changed.rowcount == 1:
                taken.add(key)
        return taken

    def save(self, study: str, key: str, row: TrialRow, owner: str, *, release: bool) -> None:
        """Write a row we own; ``release`` gives it free for other runs.

        Raises
        ------
        TakenOver
            If another run took the trial over, because this process did not answer for too long.
        """
        values = {"updated": time.time(), **_columns(row)}
        values.update(owner=None, heartbeat=None) if release else values.update(heartbeat=time.time())
        with self._begin() as connection:
            changed = connection.execute(
                TRIALS.update()
                .where(TRIALS.c.study == study, TRIALS.c.trial_key == key, TRIALS.c.owner == owner)
                .values(**values)
            )
        if changed.rowcount != 1:
            raise TakenOver(
                f"Trial {row['recipe']} on {row['backend']} at batch {row['batch_size']} was taken over by another "
                f"run: this process gave no sign for {STALE_S:g} s. Run the study again; what is complete is kept."
            )

    def amend(self, study: str, key: str, row: TrialRow) -> bool:
        """Write a complete row that nobody owns; return whether there is one."""
        with self._begin() as connection:
            changed = connection.execute(
                TRIALS.update()
                .where(TRIALS.c.study == study, TRIALS.c.trial_key == key)
                .where(TRIALS.c.owner.is_(None), TRIALS.c.state == "complete")
                .values(updated=time.time(), **_columns(row))
            )
        return changed.rowcount == 1

    def release(self, study: str, owner: str) -> None:
        """Give free everything a run still owns."""
        with self._begin() as connection:
            connection.execute(
                TRIALS.update()
                .where(TRIALS.c.study == study, TRIALS.c.owner == owner)
                .values(owner=None, heartbeat=None)
            )

    def beat(self, owner: str) -> None:
        """Say that a run is alive."""
        with self._begin() as connection:
            connection.execute(TRIALS.update().where(TRIALS.c.owner == owner).values(heartbeat=time.time()))

    def setting(self, study: str, name: str) -> Any:
        """Return a stored value of a study, or None."""
        query = sa.select(SETTINGS.c.value).where(SETTINGS.c.study == study, SETTINGS.c.name == name)
        with self._begin() as connection:
            value = connection.scalar(query)
        try:
            return None if value is None else json.loads(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise StudyError(f"{self.url}: the setting {name!r} is no JSON. Give another storage.") from error

    def accepted_drop(self, study: str, asked: float | None) -> float:
        """Return the largest drop of quality: what is asked for, else that of the last run, else the default."""
        if asked is not None:
            return asked
        stored = self.setting(study, "quality_drop")
        known = isinstance(stored, int | float) and not isinstance(stored, bool) and 0 <= stored <= sys.float_info.max
        return float(stored) if known else QUALITY_DROP

    def set_setting(self, study: str, name: str, value: Any) -> None:
        """Store a JSON-ready value for a study."""
        where = (SETTINGS.c.study == study, SETTINGS.c.name == name)
        words = json.dumps(value)
        change = SETTINGS.update().where(*where).values(value=words)
        try:
            with self._begin() as connection:
                if connection.execute(change).rowcount == 0:
                    connection.execute(SETTINGS.insert().values(study=study, name=name, value=words))
        except exc.IntegrityError:  # another run has inserted it just now
            with self._begin() as connection:
                connection.execute(change)

    def close(self) -> None:
        """Close all connections; nothing is read or written any more."""
        self._closed = True
        self._engine.dispose()

    def _create(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                with self._engine.begin() as connection:
                    for table in _METADATA.sorted_tables:
                        connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
                break
            # PostgreSQL looks whether a table is there and makes it in two steps: another run may come in between
            except (exc.IntegrityError, exc.ProgrammingError):
                if attempt == _ATTEMPTS - 1:
                    raise
        with contextlib.suppress(exc.IntegrityError), self._engine.begin() as connection:
            connection.execute(SETTINGS.insert().values(**_SCHEMA_KEY, value=str(SCHEMA_VERSION)))
        found = self.setting(**_SCHEMA_KEY)
        if found != SCHEMA_VERSION:
            age = "a newer" if isinstance(found, int) and found > SCHEMA_VERSION else "an older"
            raise StudyError(
                f"{self.url} was written by {age} workbench (schema {found}; this one reads {SCHEMA_VERSION}). "
                "Use that version, or give another storage."
            )

    @contextlib.contextmanager
    def _begin(self) -> Iterator[Connection]:
        if self._closed:
            raise StudyError(f"This study is closed. Open it again: Study(..., storage={self.url!r}).")
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise
        except exc.SQLAlchemyError as error:
            cause = first_line(getattr(error, "orig", None) or error)
            raise StudyError(f"The storage {self.url} cannot be used: {cause}. {advice(cause)}") from error


def _columns(row: TrialRow) -> dict[str, Any]:
    return {"state": row["state"], "row": json.dumps(without_nan(row), allow_nan=False)}


def advice(cause: str) -> str:
    """Return what to do about what a database said."""
    words = {
        "not a database": "Give the path of a SQLite file, or of a file that does not exist yet.",
        "readonly": "Change its rights, or give another file.",
        "locked": "Another program keeps it locked; close that one and run again.",
        "full": "Free some space and run again; what is complete is kept.",
    }
    return next((advice for part, advice in words.items() if part in cause), "Check the address and the rights.")
