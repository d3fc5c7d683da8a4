"""Inside a *prepare* child: apply recipes and write artefacts, keeping the task and shared beginnings warm."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import StudyError
from workbench.core.progress import Progress

if TYPE_CHECKING:
    from workbench.compress.variant import Variant
    from workbench.study.workers.probing import Prober
    from workbench.tasks.task import Task

_EVERY_S = 0.2
_CLEARLY = 1.3
"""Times as long as one thread that several must take, at the low end of the 95 % CI, for steps to be applied on one."""


class PrepareWorker:
    """Answers ``task`` (which task to work on) and ``prepare`` (one recipe into one folder)."""

    def __init__(self, emit: Callable[..., None]) -> None:
        import torch

        from workbench.core.machine import default_threads

        torch.set_num_threads(default_threads())
        self._emit = emit
        self._task: Task | None = None
        self._cache: MutableMapping[str, Variant] = {}
        self._prober: Prober | None = None

    def handlers(self) -> dict[str, Callable[[dict[str, Any], bytes], dict[str, Any]]]:
        """Return the commands by name."""
        return {
            "task": self.load, "prepare": self.prepare, "probe": self.probe, "threads": self.choose_threads
        }  # fmt: skip

    def load(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Load the task by reference, else from what the study pickled; say where finished beginnings are kept.

        It is built with as many threads as in the study's process: a build that trains gives other weights with others.
        """
        import torch

        from workbench.artifact import PrefixCache

        own = torch.get_num_threads()
        torch.set_num_threads(command.get("threads") or own)
        if command["reference"] is not None:
            from workbench.tasks.load import load_task

            self._task = load_task(command["reference"])
        else:
            import cloudpickle

            self._task = cloudpickle.loads(payload)
        fingerprint = self._task.fingerprint
        torch.set_num_threads(own)
        self._cache = PrefixCache(self._task) if command["prefix_cache"] else {}
        _import_exporter()
        return {"fingerprint": fingerprint}

    def prepare(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Apply a recipe, write the artefact into ``folder``, and return what the rows need.

        Where the export allows no dynamic batch, each further batch size gets an artefact ``<folder>-b<size>``. A
        training that a kill ended goes on from its last checkpoint.
        """
        from workbench.artifact import save_variant
        from workbench.compress.recipe import Recipe
        from workbench.measure.comparison.latency_cost import latency_cost

        if self._task is None:
            raise StudyError("The preparing process was asked for a recipe before it got a task.")
        if self._prober is not None:
            self._prober.close()
        started = time.monotonic()
        recipe = Recipe.from_dict(command["recipe"])
        report = _Throttled(self._emit)
        with latency_cost(recipe) or contextlib.nullcontext() as cost:
            kept = Path(command["folder"]).with_name("checkpoints")
            variant = recipe.apply(self._task, progress=report, cache=self._cache, cost=cost, checkpoints=kept)
        applied = time.monotonic()
        report(Progress("export", 0, 1, "writing the artefact"))
        sizes = command["batch_sizes"]
        artifact = save_variant(variant, command["folder"], batch=sizes[0])
        fixed = artifact.onnx_path is not None and not artifact.io.dynamic_batch
        for size in sizes[1:] if fixed else ():
            save_variant(variant, f"{command['folder']}-b{size}", batch=size)
        ended = time.monotonic()
        return {
            "spans": [("train", started, applied), ("export", applied, ended)],
            "fixed_sizes": sizes if fixed else None,
            "steps": [step.to_dict() for step in variant.reports],
            "params": variant.params,
            "macs": variant.macs,
            "validation_quality": variant.quality,
            "apply_s": applied - started,
            "export_s": ended - applied,
            "notes": _reused_notes(variant),
        }

    def probe(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Apply a recipe and return its quality and size, and on an engine its speedup over the first one probed.

        No artifact is written; finished prefixes are kept as always. ``pace`` also measures how long an epoch takes.
        """
        from workbench.compress.recipe import Recipe
        from workbench.measure.comparison.latency_cost import latency_cost
        from workbench.study.workers.probing import Prober, epoch_seconds

        if self._task is None:
            raise StudyError("The preparing process was asked for a probe before it got a task.")
        self._prober = self._prober or Prober()
        started = time.monotonic()
        recipe, kept = Recipe.from_dict(command["recipe"]), Path(command["checkpoints"])
        report = _Throttled(self._emit)
        with latency_cost(recipe) or contextlib.nullcontext() as cost:
            variant = recipe.apply(self._task, progress=report, cache=self._cache, cost=cost, checkpoints=kept)
        applied = time.monotonic()
        options = {name: command[name] for name in ("engine", "batch_size", "threads")}
        found = self._prober.probe(variant, **options)
        if command["pace"]:
            found["epoch_s"] = epoch_seconds(self._task) if self._task.has_train else None
        ended = time.monotonic()
        spans = [("train", started, applied), ("timed", applied, ended)]
        return {"spans": spans, "found": {**found, "seconds": ended - started}}

    def choose_threads(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Time the float model in torch eager with 1 and ``threads`` threads at each of ``points``.

        If one thread is clearly faster at the first point, steps are applied on one thread too: threads that spin at
        every barrier beside other load would make a training several times as long.
        """
        import torch

        from workbench.study.plan.shapes import OperatingPoint
        from workbench.study.workers.baseline import choose_threads

        if self._task is None:
            raise StudyError("The preparing process was asked to time a baseline before it got a task.")
        points = [
            OperatingPoint(batch, tuple((name, size) for name, size in shape)) for batch, shape in command["points"]
        ]
        choices = choose_threads(self._task, points, command["threads"])
        first = choices[points[0]]
        if first.threads == 1 and first.low > _CLEARLY:
            torch.set_num_threads(1)
        return {"choices": [dataclasses.asdict(choices[point]) for point in points]}


def _import_exporter() -> None:
    """Import now what the first export would: the study still writes inputs, and an export is no import."""

    with contextlib.suppress(ImportError):  # a private place, which may move: then the first export imports it
        import torch.onnx._internal.exporter._compat  # noqa: F401


def _reused_notes(variant: Variant) -> dict[str, str]:
    """Return what a row must say where steps came from the cache: their time is not in ``prepare_s``."""
    count = variant.reused_steps
    if not count:
        return {}
    reused = variant.reports[:count]
    which = "The first step" if count == 1 else f"The first {count} steps"
    words = (
        f"{which} ({' + '.join(report.label for report in reused)}) came from the cache of finished beginnings; the "
        f"{sum(report.seconds for report in reused):.1f} s that were needed once are not in this time."
    )
    if any("cut by max_seconds" in note for report in reused for note in report.notes):
        words += " A training there was cut by max_seconds; Study(..., prefix_cache=False) trains anew."
    return {"prepare_s": words}


class _Throttled:
    """Passes progress on a few times a second; a training loop may report every batch."""

    def __init__(self, emit: Callable[..., None]) -> None:
        self._emit = emit
        self._next = 0.0
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next and progress.stage == self._stage:
            return
        self._next, self._stage = now + _EVERY_S, progress.stage
        values = {k: v for k, v in progress.values.items() if isinstance(v, bool | int | float | str)}
        self._emit(
            "progress",
            stage=progress.stage,
            done=float(progress.done),
            total=float(progress.total),
            message=progress.message,
            values=values,
        )
