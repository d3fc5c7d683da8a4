"""The *prepare* child as the study sees it, and how a task travels into children."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle

from workbench.compress.recipe import Recipe
from workbench.core.errors import StudyError, TrialFailed
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.workers.baseline import ThreadChoice
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.process import CancelToken, WorkerError, WorkerProcess

if TYPE_CHECKING:
    from workbench.tasks.task import Task


@dataclass(frozen=True)
class Shipment:
    """A task ready to travel: its reference or, where it has none, the whole of it pickled; and its ``build``."""

    reference: str | None
    task: bytes
    build: bytes
    fingerprint: str


def pack(task: Task, *, elsewhere: bool = False) -> Shipment:
    """Return what children need of a task; ``elsewhere`` sends the whole of it, for machines without its files.

    Raises
    ------
    StudyError
        If its functions cannot be pickled; said here, before any work starts.
    """
    build = _pickled(task.build, f"build of task {task.name!r}")
    reference = None if elsewhere else task.reference
    whole = b"" if reference is not None else _pickled(task, f"task {task.name!r}")
    return Shipment(reference, whole, build, task.fingerprint)


def _pickled(thing: Any, words: str) -> bytes:
    stream = io.BytesIO()
    try:
        _Pickler(stream).dump(thing)
    except Exception as error:
        raise StudyError(
            f"The {words} cannot be sent to a child process: {type(error).__name__}: {error}. Write it as functions in "
            "a file and use load_task('file.py:function'), and open files, locks and connections inside build()."
        ) from error
    return stream.getvalue()


def _reduce_cached(cached: Any) -> Any:
    """Let a cached function of a notebook or task file travel with its code; Python would send its name only."""
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
    """Starts the child when it is first needed, and again after it was lost.

    ``shipment`` is the task; None where it is not known yet, see :meth:`carry`.
    """

    def __init__(
        self,
        shipment: Shipment | None,
        files: Path,
        stop: CancelToken,
        *,
        prefix_cache: bool = True,
        policy: WorkerPolicy | None = None,
    ) -> None:
        self._shipment, self._files, self._stop = shipment, files, stop
        self._prefix_cache, self._policy = prefix_cache, policy
        self._worker: WorkerProcess | None = None
        self._sent = self._loaded = False

    def carry(self, shipment: Shipment) -> None:
        """Say which task it is, where the process was started before that was known."""
        self._shipment = shipment

    def start(self) -> None:
        """Start the process and send the task, so that its imports overlap with what the study does meanwhile."""
        if self._worker is not None and not self._worker.alive:
            self._worker.close()
            self._worker = None
        if self._worker is None:
            self._sent = self._loaded = False
            log = self._files / "logs" / "prepare.log"
            self._worker = WorkerProcess("prepare", {}, log=log, stop=self._stop, policy=self._policy)
        if self._shipment is not None and not self._sent:
            with contextlib.suppress(TrialFailed):  # one that has ended already is noticed where it is needed
                self._send(self._worker, self._shipment)

    def prepare(
        self,
        recipe: Recipe,
        folder: Path,
        on_event: Callable[[dict[str, Any]], None],
        *,
        batch_sizes: Sequence[int],
    ) -> dict[str, Any]:
        """Apply a recipe in the child and have its artefact written into ``folder``.

        Raises
        ------
        TrialFailed
            If the recipe failed (the child goes on) or the process ended (the next call starts another).
        StudyError
            If the task is another one there.
        """
        self.start()
        worker = self._worker
        if worker is None:
            raise TrialFailed("The preparing process could not be started.")
        if folder.exists():
            shutil.rmtree(folder)  # what a killed process left
        try:
            if not self._loaded:
                self._load(worker)
            return worker.ask(
                "prepare",
                on_event=on_event,
                recipe=recipe.to_dict(),
                folder=str(folder),
                batch_sizes=list(batch_sizes),
            )
        except WorkerError:
            raise
        except TrialFailed:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder, ignore_errors=True)
            raise

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
        """Apply a recipe in the child without an artifact; on an engine, time it against the first one probed.

        Raises
        ------
        TrialFailed
            As :meth:`prepare`.
        """
        self.start()
        worker = self._worker
        if worker is None:
            raise TrialFailed("The preparing process could not be started.")
        if not self._loaded:
            self._load(worker)
        checkpoints = str(self._files / "artifacts" / "checkpoints")
        answer = worker.ask(
            "probe", on_event=on_event, recipe=recipe.to_dict(), engine=engine, batch_size=batch_size,
            threads=threads, pace=pace, checkpoints=checkpoints,
        )  # fmt: skip
        found: dict[str, Any] = answer["found"]
        return found

    def choose_threads(self, points: Sequence[OperatingPoint], threads: int) -> dict[OperatingPoint, ThreadChoice]:
        """Return the faster thread count of torch eager at each point, timed in the child.

        Nothing is returned if the float model cannot be timed there: preparing it gives the reason.
        """
        self.start()
        worker = self._worker
        if worker is None:
            return {}
        try:
            if not self._loaded:
                self._load(worker)
            answer = worker.ask("threads", points=[list(point) for point in points], threads=threads)
        except TrialFailed:
            return {}
        return {point: ThreadChoice(**choice) for point, choice in zip(points, answer["choices"], strict=True)}

    def close(self, *, kill: bool = False) -> None:
        """End the process."""
        worker, self._worker = self._worker, None
        if worker is not None:
            if kill:
                worker.kill()
            else:
                worker.close()

    def _send(self, worker: WorkerProcess, shipment: Shipment) -> None:
        import torch

        known = {"reference": shipment.reference, "threads": torch.get_num_threads()}
        worker.send("task", shipment.task, prefix_cache=self._prefix_cache, **known)
        self._sent = True

    def _load(self, worker: WorkerProcess) -> None:
        shipment = self._shipment
        if shipment is None:
            raise StudyError("The preparing process was asked for a recipe before it got a task.")
        if not self._sent:
            self._send(worker, shipment)
        answer = worker.answer("task")
        if answer["fingerprint"] != shipment.fingerprint:
            raise StudyError(
                f"The task that {shipment.reference!r} gives in a child process is not the one of this study "
                f"({answer['fingerprint']} instead of {shipment.fingerprint}): its data, weights or version "
                "differ. Fix random seeds in it, load trained weights in build() instead of training there, and do not "
                "change a task after loading it."
            )
        self._loaded = True
