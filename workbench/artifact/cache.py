"""Prefix cache on disk: variants of recipe prefixes, shared by all processes of a user; edited code invalidates it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

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
_LIBRARIES = ("torch", "builtins")
_RUNTIMES = ("onnxruntime", "openvino")  # their versions do not affect training


class PrefixCache(MutableMapping[str, "Variant"]):
    """Map recipe ids to variants of one task, stored as structure, weights and reports.

    For :meth:`Recipe.apply`; studies use it by default. Entries are keyed by the task's fingerprint, the code of steps
    and task, and the versions of training libraries. Quantized variants are not stored. A training cut by
    ``max_seconds`` is stored under its recipe id and returned as it is. Variants that cannot be written (no space, or a
    structure without a description) stay in memory.

    Parameters
    ----------
    task : Task or str
        A task, or a name or path that :func:`workbench.load_task` accepts.
    folder : path, optional
        By default ``prefixes`` in ``WORKBENCH_CACHE``, else in the user's cache.
    limit_mib : int, optional
        Total size in MiB; least recently used entries are evicted. By default ``WORKBENCH_CACHE_MIB``, else 2048. 0
        disables the disk.

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
                f"PrefixCache limit_mib must be an integer of at least 0, or None for the default, got "
                f"{given(self.limit_mib)}."
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
            variant = load_prefix(folder, self._task, recipe_id=recipe_id)
        except ArtifactError as error:  # damaged, or removed by another process
            _remove(folder)
            raise KeyError(recipe_id) from error
        with contextlib.suppress(OSError):
            os.utime(folder)
        return variant

    def __setitem__(self, recipe_id: str, variant: Variant) -> None:
        from workbench.artifact.save import save_prefix
        from workbench.compress.variant import Variant

        if not isinstance(recipe_id, str) or not isinstance(variant, Variant):
            raise ConfigError(
                f"PrefixCache maps recipe ids to variants, got {given(recipe_id)} and {given(variant)}. Use "
                "cache[recipe.recipe_id] = variant."
            )
        try:
            if self.limit_mib and variant.task.fingerprint == self._task.fingerprint:
                save_prefix(variant, self._entry(recipe_id))
                self._evict()
        except WorkbenchError:
            pass
        if recipe_id not in self._memory and not self._entry(recipe_id).is_dir():
            self._memory[recipe_id] = variant

    def __delitem__(self, recipe_id: str) -> None:
        in_memory = self._memory.pop(recipe_id, None) is not None
        if not _remove(self._entry(recipe_id)) and not in_memory:
            raise KeyError(recipe_id)

    def __iter__(self) -> Iterator[str]:
        stored = {path.name.partition("-")[0] for path in self.folder.glob(f"[!.]*-{self._mark}") if path.is_dir()}
        return iter(sorted(stored | self._memory.keys()))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def size_mib(self) -> float:
        """Size of all entries on disk (MiB), including other tasks'."""
        return sum(size for _, size, _ in self._entries()) / 2**20

    @contextlib.contextmanager
    def making(self, recipe_id: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a lock while an entry is made, so that no two processes train the same one.

        ``waiting`` is called twice a second while another process holds the lock; raise in it to stop waiting.
        """
        from filelock import FileLock, Timeout

        lock = None
        if self.limit_mib:
            with contextlib.suppress(OSError, NotImplementedError):  # no locks on this file system
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self.folder / f".{self._entry(recipe_id).name}.lock")
                while not lock.is_locked:
                    try:
                        lock.acquire(timeout=_POLL_S)
                    except Timeout:
                        waiting()
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    @functools.cached_property
    def _mark(self) -> str:
        from workbench.artifact.manifest import FORMAT

        versions = library_versions([name for name in FINGERPRINT_LIBRARIES if name not in _RUNTIMES])
        key = {"format": FORMAT, "task": self._task.fingerprint, "libraries": versions}
        return short_id({**key, "code": code_digest(self._task)})

    def _entry(self, recipe_id: str) -> Path:
        return self.folder / f"{recipe_id}-{self._mark}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return last use, size in bytes and folder of each entry, least recently used first."""
        entries = []
        for path in self.folder.glob("*"):
            with contextlib.suppress(OSError):  # removed by another process
                if path.is_dir():
                    entries.append((path.stat().st_mtime, sum(file.stat().st_size for file in path.iterdir()), path))
        return sorted(entries)

    def _evict(self) -> None:
        entries = self._entries()
        total, limit = sum(size for _, size, _ in entries), self.limit_mib * 2**20
        for used, size, path in entries:
            abandoned = path.name.startswith(".") and time.time() - used > _ABANDONED_S  # by a killed process
            if abandoned or (total > limit and not path.name.startswith(".")):
                total -= size
                _remove(path)


def _remove(folder: Path) -> bool:
    """Remove an entry atomically; return whether it existed."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.{time.monotonic_ns()}.gone")
    try:
        os.replace(folder, aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _limit() -> int:
    value = os.environ.get(LIMIT_VARIABLE, "").strip()
    if value and not value.isdecimal():
        raise ConfigError(f"{LIMIT_VARIABLE} must be a whole number of MiB (0 disables the disk), got {value!r}.")
    return int(value) if value else DEFAULT_MIB


def code_digest(task: Task) -> str:
    """Return the sha256 (hex) of the steps' code and the task's: loss, metric, augment, build and layers.

    Hashes whole files, or the byte code of functions defined in a notebook. Imports of these files are not followed:
    change the task's ``version`` if they matter.
    """
    total = hashlib.sha256(_steps_digest())
    for part in _parts(task):
        total.update(part.encode("utf-8", "surrogateescape"))
        total.update(b"\0")
    return total.hexdigest()


@functools.cache
def _steps_digest() -> bytes:
    total = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "compress").rglob("*.py")):
        total.update(path.read_bytes())
    return total.digest()


def _parts(task: Task) -> Iterator[str]:
    for role in ("build", "loss", "metric", "augment"):
        function = getattr(task, role)
        yield f"{role} {_source(function)}" if callable(function) else role
    kinds = {type(part) for part in task.model().modules()}
    yield from sorted({_source(kind) for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES})


def _source(thing: Callable[..., Any]) -> str:
    """Return the text of the file that defines a function or class, else its byte code."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = inspect.unwrap(thing)
    name = getattr(thing, "__module__", None) or type(thing).__module__
    file = None if name == "__main__" else getattr(sys.modules.get(name), "__file__", None)
    if file is not None and Path(file).suffix == ".py" and Path(file).is_file():
        return Path(file).read_text(encoding="utf-8", errors="surrogateescape")
    return "".join(_codes(thing)) or f"{name}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _codes(thing: Any) -> Iterator[str]:
    code = getattr(thing, "__code__", None)
    if isinstance(code, CodeType):
        yield from _code(code)
    elif inspect.isclass(thing):
        for _, method in sorted(inspect.getmembers(thing, inspect.isfunction)):
            yield from _code(method.__code__)
    elif callable(thing) and not inspect.isbuiltin(thing):
        yield from _codes(type(thing))


def _code(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:  # the order of a set differs between processes
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
