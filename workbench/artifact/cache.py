"""Finished beginnings of recipes on disk, shared by every process of this user: no training is done twice."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.checks import given, require_path
from workbench.core.config import short_id
from workbench.core.errors import ArtifactError, ConfigError, WorkbenchError
from workbench.core.files import cache_dir
from workbench.core.lazy import optional_import
from workbench.core.machine import FINGERPRINT_LIBRARIES, library_versions

if TYPE_CHECKING:
    from workbench.compress.variant import Variant
    from workbench.tasks.task import Task

DEFAULT_MIB = 2048
LIMIT_VARIABLE = "WORKBENCH_CACHE_MIB"
_POLL_S = 0.5
_ABANDONED_S = 24 * 3600.0
# What runs a finished model, not what trains it: an update of these changes no training.
_RUNTIMES = ("onnxruntime", "openvino")


class PrefixCache(MutableMapping[str, "Variant"]):
    """Recipe ids to variants of one task, kept as structure, weights and reports on disk.

    Give it to :meth:`Recipe.apply`; studies use it by default. An entry belongs to the task's fingerprint, the code
    of steps and task, and the versions of the libraries that train. Quantized variants end a recipe and are not kept.
    A training that ``max_seconds`` has cut is kept under its own recipe id, which holds the limit: asked for again, it
    comes back as it was, although a machine with more time would have got further. What cannot be written (no space, a
    structure that only a program describes) is kept in memory instead, as long as this object lives.

    Parameters
    ----------
    task : Task or str
        Or what :func:`workbench.load_task` understands: whose variants these are.
    folder : path, optional
        By default ``prefixes`` in the folder that ``WORKBENCH_CACHE`` names, else in the user's cache.
    limit_mib : int, optional
        What all entries together may take, in MiB; those not used for longest go first. By default
        ``WORKBENCH_CACHE_MIB``, else 2048. 0 keeps nothing on disk.

    Raises
    ------
    ConfigError, TaskError
        If the folder or the limit is of a wrong type or below 0, or there is no such task.

    Examples
    --------
    >>> cache = PrefixCache(task)
    >>> for ratio in (0.3, 0.5):  # doctest: +SKIP
    ...     wb.Recipe(wb.Prune(ratio=0.5), wb.Distill(), wb.Factorize(ratio=ratio)).apply(task, cache=cache)
    """

    def __init__(self, task: Task | str, folder: str | Path | None = None, *, limit_mib: int | None = None) -> None:
        with optional_import("PrefixCache"):
            from workbench.tasks.load import load_task

        self.folder = cache_dir() / "prefixes" if folder is None else require_path("PrefixCache folder", folder)
        self.limit_mib = _limit() if limit_mib is None else limit_mib
        if isinstance(self.limit_mib, bool) or not isinstance(self.limit_mib, int) or self.limit_mib < 0:
            raise ConfigError(
                f"PrefixCache limit_mib must be an integer of at least 0, got {given(self.limit_mib)}. 0 keeps nothing "
                "on disk; None takes the usual limit."
            )
        self._task = load_task(task)
        self._memory: dict[str, Variant] = {}

    def __getitem__(self, recipe_id: str) -> Variant:
        if recipe_id in self._memory:
            return self._memory[recipe_id]
        folder = self._entry(recipe_id)
        if not self.limit_mib or not folder.is_dir():
            raise KeyError(recipe_id)
        from workbench.artifact.load import load_prefix

        try:
            found = load_prefix(folder, self._task, recipe_id=recipe_id)
        except ArtifactError as error:  # damaged, or just removed by another process: it is made again
            _remove(folder)
            raise KeyError(recipe_id) from error
        with contextlib.suppress(OSError):
            os.utime(folder)
        return found

    def __setitem__(self, recipe_id: str, variant: Variant) -> None:
        from workbench.artifact.save import save_prefix
        from workbench.compress.variant import Variant

        if not isinstance(recipe_id, str) or not isinstance(variant, Variant):
            raise ConfigError(
                "PrefixCache keeps variants by recipe id: cache[recipe.recipe_id] = variant; got "
                f"{given(recipe_id)} and {given(variant)}."
            )
        try:
            if self.limit_mib and variant.task.fingerprint == self._task.fingerprint:
                save_prefix(variant, self._entry(recipe_id))
                self._make_room()
        except WorkbenchError:
            pass
        if recipe_id not in self._memory and not self._entry(recipe_id).is_dir():
            self._memory[recipe_id] = variant

    def __delitem__(self, recipe_id: str) -> None:
        known = self._memory.pop(recipe_id, None) is not None
        if not _remove(self._entry(recipe_id)) and not known:
            raise KeyError(recipe_id)

    def __iter__(self) -> Iterator[str]:
        stored = {path.name.partition("-")[0] for path in self.folder.glob(f"[!.]*-{self._mark}") if path.is_dir()}
        return iter(sorted(stored | self._memory.keys()))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def size_mib(self) -> float:
        """What all entries take on disk, those of other tasks too."""
        return sum(size for _, size, _ in self._entries()) / 2**20

    @contextlib.contextmanager
    def making(self, recipe_id: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the right to make an entry, so that two processes never train the same one at the same time.

        ``waiting`` is called twice a second while another process has it; raising in it ends the wait. A process that
        dies gives the right free.
        """
        lock = self._lock(recipe_id, waiting)
        try:
            yield
        finally:
            if lock is not None:
                lock()

    def _lock(self, recipe_id: str, waiting: Callable[[], None]) -> Callable[[], None] | None:
        from filelock import FileLock, Timeout

        if not self.limit_mib:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f".{self._entry(recipe_id).name}.lock")
            while True:
                try:
                    lock.acquire(timeout=_POLL_S)
                    return lock.release
                except Timeout:
                    waiting()
        except (OSError, NotImplementedError):  # a file system without locks: at worst a training is done twice
            return None

    @functools.cached_property
    def _mark(self) -> str:
        from workbench.artifact.code_digest import code_digest
        from workbench.artifact.manifest import FORMAT

        versions = library_versions([name for name in FINGERPRINT_LIBRARIES if name not in _RUNTIMES])
        known = {"format": FORMAT, "task": self._task.fingerprint, "libraries": versions}
        return short_id({**known, "code": code_digest(self._task)})

    def _entry(self, recipe_id: str) -> Path:
        return self.folder / f"{recipe_id}-{self._mark}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return every entry's last use, size in bytes and folder; the one not used for longest first."""
        found = []
        for path in self.folder.glob("*"):
            with contextlib.suppress(OSError):  # another process removes it just now
                if path.is_dir():
                    found.append((path.stat().st_mtime, sum(file.stat().st_size for file in path.iterdir()), path))
        return sorted(found)

    def _make_room(self) -> None:
        entries = self._entries()
        total, limit = sum(size for _, size, _ in entries), self.limit_mib * 2**20
        for used, size, path in entries:
            abandoned = path.name.startswith(".") and time.time() - used > _ABANDONED_S  # by a killed process
            if abandoned or (total > limit and not path.name.startswith(".")):
                total -= size
                _remove(path)


def _remove(folder: Path) -> bool:
    """Remove an entry so that no other process ever sees half of it; say whether it was there."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.{time.monotonic_ns()}.gone")
    try:
        os.replace(folder, aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _limit() -> int:
    given = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not given:
        return DEFAULT_MIB
    if not given.isdecimal():
        raise ConfigError(f"{LIMIT_VARIABLE} must be a whole number of MiB (0 keeps nothing on disk), got {given!r}.")
    return int(given)
