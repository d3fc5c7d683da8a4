"""The database of trials, shared by any number of processes; each trial is claimed by one of them.

Tables are called ``workbench_*`` because Optuna has a table ``trials`` in the same database.
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
from workbench.study.storage.url import advice, connect, files_folder, parse_url

SCHEMA_VERSION = 1
STALE_S = 30.0
"""Longest time without a heartbeat of a living run."""
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
    """A trial in the database; ``owner`` is the run that has claimed it, ``updated`` is in seconds since 1970."""

    row: TrialRow
    state: str
    owner: str | None
    heartbeat: float | None
    updated: float


class TakenOver(StudyError):
    """Another run has claimed the trial."""


class Store:
    """Open the database at ``url`` and create missing tables; StudyError if the URL, folder or schema is not valid."""

    def __init__(self, url: str) -> None:
        parsed = parse_url(url)
        self.url = url
        self._closed = False
        self.files = files_folder(parsed)
        self._engine = connect(parsed)
        with self._explained():
            self._create()

    def add(self, study: str, rows: Mapping[str, TrialRow]) -> None:
        """Insert rows with new keys; existing rows stay as they are."""
        with self._begin() as connection:
            existing = set(connection.scalars(sa.select(TRIALS.c.trial_key).where(TRIALS.c.study == study)))
        now = time.time()
        for position, (key, row) in enumerate(rows.items()):
            if key not in existing:
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
            records = connection.execute(query).all()
        return {
            r.trial_key: StoredTrial(self._row(study, r.trial_key, r.row), r.state, r.owner, r.heartbeat, r.updated)
            for r in records
        }

    def all_complete(self, study: str, keys: Collection[str]) -> bool:
        """Return whether a study has these trials, all complete."""
        stored = self.load(study, keys)
        return len(stored) == len(set(keys)) and all(trial.state == "complete" for trial in stored.values())

    def _row(self, study: str, key: str, text: str) -> TrialRow:
        """Return a row after checking it: the file may come from others."""
        where = f"{self.url}: trial {one_line(key)!r} of study {one_line(study)!r}"
        try:
            row = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise StudyError(f"{where} is not a row of a study: it is not JSON.") from error
        return checked_row(row, where)

    def merge(self, study: str, rows: Mapping[str, TrialRow]) -> tuple[int, int]:
        """Add rows that were measured elsewhere; return the numbers of new and of replaced rows.

        Rows that this study has timed itself, with raw samples, and claimed rows stay.
        """
        before = self.load(study, rows)
        self.add(study, rows)
        replaced = 0
        for key, old in before.items():
            own = old.owner is not None or (old.state == "complete" and old.row["samples"] is not None)
            if not own and old.row != rows[key]:
                replaced += 1
                self._update(*_trial(study, key), TRIALS.c.owner.is_(None), updated=time.time(), **_columns(rows[key]))
        return len(rows) - len(before), replaced

    def claim(self, study: str, keys: Iterable[str], owner: str) -> set[str]:
        """Claim the trials without a living owner, and return their keys; complete trials are never claimed.

        Each claim compares and swaps in one statement, so that only one of two runs gets a trial.
        """
        claimed = set()
        for key, trial in self.load(study, keys).items():
            if trial.owner is not None and not is_stale(trial.owner, trial.heartbeat):
                continue
            same_owner = TRIALS.c.owner.is_(None) if trial.owner is None else TRIALS.c.owner == trial.owner
            free = (*_trial(study, key), same_owner, TRIALS.c.state != "complete")
            if self._update(*free, owner=owner, heartbeat=time.time()):
                claimed.add(key)
        return claimed

    def save(self, study: str, key: str, row: TrialRow, owner: str, *, release: bool) -> None:
        """Write a claimed row; ``release`` ends the claim. Raises TakenOver if another run has claimed it meanwhile."""
        now = time.time()
        claim = {"owner": None, "heartbeat": None} if release else {"heartbeat": now}
        if not self._update(*_trial(study, key), TRIALS.c.owner == owner, updated=now, **_columns(row), **claim):
            raise TakenOver(
                f"Trial {row['recipe']} on {row['backend']} at batch {row['batch_size']} was taken over by another "
                f"run: this process had no heartbeat for {STALE_S:g} s. Run the study again; complete rows are kept."
            )

    def amend(self, study: str, key: str, row: TrialRow) -> bool:
        """Write a complete row without an owner; return whether there is one."""
        where = (*_trial(study, key), TRIALS.c.owner.is_(None), TRIALS.c.state == "complete")
        return self._update(*where, updated=time.time(), **_columns(row)) == 1

    def release(self, study: str, owner: str) -> None:
        """Release all claims of a run."""
        self._update(TRIALS.c.study == study, TRIALS.c.owner == owner, owner=None, heartbeat=None)

    def beat(self, owner: str) -> None:
        """Write the heartbeat of a run."""
        self._update(TRIALS.c.owner == owner, heartbeat=time.time())

    def setting(self, study: str, name: str) -> Any:
        """Return a setting of a study, or None."""
        query = sa.select(SETTINGS.c.value).where(SETTINGS.c.study == study, SETTINGS.c.name == name)
        with self._begin() as connection:
            value = connection.scalar(query)
        try:
            return None if value is None else json.loads(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise StudyError(f"{self.url}: the setting {name!r} is not JSON. Give another storage.") from error

    def accepted_drop(self, study: str, quality_drop: float | None) -> float:
        """Return the limit of the quality drop: ``quality_drop``, else that of the last run, else the default."""
        if quality_drop is not None:
            return quality_drop
        stored = self.setting(study, "quality_drop")
        valid = isinstance(stored, int | float) and not isinstance(stored, bool) and 0 <= stored <= sys.float_info.max
        return float(stored) if valid else QUALITY_DROP

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
        """Close all connections."""
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
        version = self.setting(**_SCHEMA_KEY)
        if version != SCHEMA_VERSION:
            raise StudyError(
                f"{self.url} must have schema {SCHEMA_VERSION}, got {version}. Use the version of the workbench that "
                "wrote it, or give another storage."
            )

    def _update(self, *where: sa.ColumnElement[bool], **values: Any) -> int:
        """Change trials in one statement, and return their number."""
        with self._begin() as connection:
            return connection.execute(TRIALS.update().where(*where).values(**values)).rowcount

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


def _trial(study: str, key: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return TRIALS.c.study == study, TRIALS.c.trial_key == key


def _columns(row: TrialRow) -> dict[str, Any]:
    return {"state": row["state"], "row": json.dumps(without_nan(row), allow_nan=False)}


def new_owner() -> str:
    """Return a name for one run: host, process and a random part."""
    return f"{_processes()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@functools.cache
def _processes() -> str:
    """Return an id of this PID namespace: host, boot and container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8])
        parts.append(Path("/proc/self/ns/pid").readlink().name.strip("pid:[]"))
    return "/".join(parts)


def is_stale(owner: str, heartbeat: float | None, *, now: float | None = None) -> bool:
    """Return whether a run is dead: its process has gone from this host, or it had no heartbeat for 30 s.

    A process in another container of this host is judged by its heartbeat only.
    """
    import psutil

    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host == _processes() and rest.isdigit() and not psutil.pid_exists(int(rest)):
        return True
    return heartbeat is None or (time.time() if now is None else now) - heartbeat > STALE_S
