"""Client of the *prepare* worker, and how a task is sent to workers."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle

from workbench.compress.recipe import Recipe
from workbench.core.errors import StudyError, TrialFailed
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import Trial
from workbench.study.storage.artifact_store import ArtifactStore
from workbench.study.workers.baseline import ThreadChoice
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.process import CancelToken, WorkerError, WorkerProcess

if TYPE_CHECKING:
    from workbench.tasks.task import Task


@dataclass(frozen=True)
class PackedTask:
    """A task to be sent: its reference or, if it has none, the pickled task; and its pickled ``build``."""

    reference: str | None
    task: bytes
    build: bytes
    fingerprint: str


def pack_task(task: Task, *, elsewhere: bool = False) -> PackedTask:
    """Return a task to be sent; ``elsewhere`` pickles all of it, for machines without its files.

    Raises StudyError if its functions cannot be pickled.
    """
    build = _pickled(task.build, f"build of task {task.name!r}")
    reference = None if elsewhere else task.reference
    whole = b"" if reference is not None else _pickled(task, f"task {task.name!r}")
    return PackedTask(reference, whole, build, task.fingerprint)


def _pickled(thing: Any, words: str) -> bytes:
    stream = io.BytesIO()
    try:
        _Pickler(stream).dump(thing)
    except Exception as error:
        raise StudyError(
            f"The {words} cannot be pickled for a worker process: {type(error).__name__}: {error}. Load it by "
            "load_task('file.py:function'), and open files, locks and connections inside build()."
        ) from error
    return stream.getvalue()


def _reduce_cached(cached: Any) -> Any:
    """Pickle a cached function of a notebook or task file by value; Python pickles its name only."""
    module = cached.__wrapped__.__module__
    if module == "__main__" or module in cloudpickle.list_registry_pickle_by_value():
        return _cached, (cached.__wrapped__, cached.cache_parameters())
    return cached.__reduce__()


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar = collections.ChainMap(
        {functools._lru_cache_wrapper: _reduce_cached}, cloudpickle.Pickler.dispatch_table
    )


class PrepareClient:
    """Starts the worker on first use, and again after it was lost; :meth:`carry` sets the task."""

    def __init__(self, files: Path, stop: CancelToken, *, prefix_cache: bool, policy: WorkerPolicy) -> None:
        self._packed: PackedTask | None = None
        self._files, self._stop = files, stop
        self._prefix_cache, self._policy = prefix_cache, policy
        self._worker: WorkerProcess | None = None
        self._sent = self._loaded = False

    def carry(self, packed: PackedTask) -> None:
        """Set the task."""
        self._packed = packed

    def start(self) -> WorkerProcess:
        """Start the process and send the task, so that its imports overlap with other work."""
        if self._worker is not None and not self._worker.alive:
            self._worker.close()
            self._worker = None
        if self._worker is None:
            self._sent = self._loaded = False
            log = self._files / "logs" / "prepare.log"
            self._worker = WorkerProcess("prepare", {}, log=log, stop=self._stop, policy=self._policy)
        if self._packed is not None and not self._sent:
            with contextlib.suppress(TrialFailed):  # the next command raises the error again
                self._send(self._worker, self._packed)
        return self._worker

    def prepare(
        self,
        trial: Trial,
        store: ArtifactStore,
        on_event: Callable[[dict[str, Any]], None],
        *,
        batch_sizes: Sequence[int],
    ) -> dict[str, Any]:
        """Apply the recipe of a trial, write its artifact into the store, and return the preparation metadata.

        Raises TrialFailed if the recipe failed or the process ended, StudyError if the worker loads a different task.
        """
        folder, started = store.target(trial), time.monotonic()
        if folder.exists():
            shutil.rmtree(folder)  # left by a killed process
        try:
            recipe, sizes = trial.recipe.to_dict(), list(batch_sizes)
            answer = self._loaded_worker().ask(
                "prepare", on_event=on_event, recipe=recipe, folder=str(folder), batch_sizes=sizes
            )
        except WorkerError:
            raise
        except TrialFailed:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        prepared = {**answer, "prepare_s": time.monotonic() - started}
        store.keep(trial, prepared)
        return prepared

    def probe(
        self,
        recipe: Recipe,
        on_event: Callable[[dict[str, Any]], None],
        *,
        engine: str | None,
        batch_size: int,
        threads: int,
        pace: bool,
    ) -> dict[str, Any]:
        """Apply a recipe without an artifact; with ``engine``, time it against the first recipe that was probed."""
        result: dict[str, Any] = self._loaded_worker().ask(
            "probe", on_event=on_event, recipe=recipe.to_dict(), engine=engine, batch_size=batch_size,
            threads=threads, pace=pace, checkpoints=str(self._files / "artifacts" / "checkpoints"),
        )["result"]  # fmt: skip
        return result

    def choose_threads(self, points: Sequence[OperatingPoint], threads: int) -> dict[OperatingPoint, ThreadChoice]:
        """Return the faster thread count of torch eager at each point, timed in the worker.

        Empty if the float model cannot be timed there: preparing it gives the reason.
        """
        try:
            answer = self._loaded_worker().ask("threads", points=[list(point) for point in points], threads=threads)
        except TrialFailed:
            return {}
        return {point: ThreadChoice(**choice) for point, choice in zip(points, answer["choices"], strict=True)}

    def close(self, *, kill: bool = False) -> None:
        """End the process; ``kill`` does not wait for its work."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close(kill=kill)

    def _send(self, worker: WorkerProcess, packed: PackedTask) -> None:
        import torch

        fields = {"reference": packed.reference, "threads": torch.get_num_threads()}
        worker.send("task", packed.task, prefix_cache=self._prefix_cache, **fields)
        self._sent = True

    def _loaded_worker(self) -> WorkerProcess:
        worker, packed = self.start(), self._packed
        if self._loaded:
            return worker
        if packed is None:
            raise StudyError("PrepareClient needs a task before its first recipe: call carry().")
        if not self._sent:
            self._send(worker, packed)
        answer = worker.answer("task")
        if answer["fingerprint"] != packed.fingerprint:
            raise StudyError(
                f"Task {packed.reference!r} has fingerprint {answer['fingerprint']} in a worker process, but "
                f"{packed.fingerprint} here: data, weights or version differ. Fix its random seeds, load trained "
                "weights in build(), and do not change a task after loading it."
            )
        self._loaded = True
        return worker
