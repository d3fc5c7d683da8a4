"""The *prepare* worker: apply recipes, write artifacts and probe, with the task and shared prefixes in memory."""

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
    from workbench.measure.comparison.latency_cost import LatencyCost
    from workbench.tasks.task import Task

_EVERY_S = 0.2
_CLEARLY = 1.3
"""Least time with several threads over that with one, by the low end of the 95 % CI, to apply steps on one thread."""

_BATCH = 128
_TRAINING = 4.0
"""Forward passes that a step of distillation takes: the teacher's, the student's, and its backward pass."""


class PrepareWorker:
    """Each public method is a command."""

    def __init__(self, emit: Callable[..., None]) -> None:
        import torch

        from workbench.core.machine import default_threads

        torch.set_num_threads(default_threads())
        self._emit = emit
        self._loaded_task: Task | None = None
        self._cache: MutableMapping[str, Variant] = {}
        self._prober: Prober | None = None

    @property
    def _task(self) -> Task:
        if self._loaded_task is None:
            raise StudyError("A prepare worker needs the command 'task' before any other.")
        return self._loaded_task

    def task(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Load the task by reference, or from the pickled payload.

        It is built with the thread count of the study's process, because that changes the weights of a build that
        trains.
        """
        import torch

        from workbench.artifact import PrefixCache

        own = torch.get_num_threads()
        torch.set_num_threads(command.get("threads") or own)
        if command["reference"] is not None:
            from workbench.tasks.load import load_task

            self._loaded_task = load_task(command["reference"])
        else:
            import cloudpickle

            self._loaded_task = cloudpickle.loads(payload)
        fingerprint = self._task.fingerprint
        torch.set_num_threads(own)
        self._cache = PrefixCache(self._task) if command["prefix_cache"] else {}
        with contextlib.suppress(ImportError):  # a private module that the first export would import
            import torch.onnx._internal.exporter._compat
        return {"fingerprint": fingerprint}

    def prepare(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Apply a recipe, write the artifact into ``folder``, and return the preparation metadata.

        If the export has no dynamic batch, each further batch size gets an artifact ``<folder>-b<size>``. A training
        that was killed continues from its last checkpoint.
        """
        from workbench.artifact import save_variant

        if self._prober is not None:
            self._prober.close()
        folder, sizes, started = Path(command["folder"]), command["batch_sizes"], time.monotonic()
        report = _Throttled(self._emit)
        variant = self._apply(command["recipe"], folder.with_name("checkpoints"), report)
        applied = time.monotonic()
        report(Progress("export", 0, 1, "writing the artifact"))
        artifact = save_variant(variant, folder, batch=sizes[0])
        fixed = artifact.onnx_path is not None and not artifact.io.dynamic_batch
        for size in sizes[1:] if fixed else ():
            save_variant(variant, f"{folder}-b{size}", batch=size)
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
        """Apply a recipe without an artifact, and return quality, size, and with ``engine`` its speedup.

        The speedup is over the first recipe that was probed. ``pace`` also measures the time of an epoch.
        """
        self._prober = self._prober or Prober()
        started = time.monotonic()
        variant = self._apply(command["recipe"], Path(command["checkpoints"]), _Throttled(self._emit))
        applied = time.monotonic()
        result = self._prober.probe(variant, **{name: command[name] for name in ("engine", "batch_size", "threads")})
        if command["pace"]:
            result["epoch_s"] = epoch_seconds(self._task) if self._task.has_train else None
        ended = time.monotonic()
        spans = [("train", started, applied), ("timed", applied, ended)]
        return {"spans": spans, "result": {**result, "seconds": ended - started}}

    def _apply(self, recipe_fields: dict[str, Any], checkpoints: Path, report: Callable[[Progress], None]) -> Variant:
        from workbench.compress.recipe import Recipe
        from workbench.measure.comparison.latency_cost import latency_cost

        recipe = Recipe.from_dict(recipe_fields)
        with latency_cost(recipe) or contextlib.nullcontext() as cost:
            return recipe.apply(self._task, progress=report, cache=self._cache, cost=cost, checkpoints=checkpoints)

    def threads(self, command: dict[str, Any], payload: bytes) -> dict[str, Any]:
        """Time the float model in torch eager with 1 and ``threads`` threads at each of ``points``.

        If one thread is clearly faster at the first point, steps are applied on one thread too: threads that spin at
        every barrier would make a training under load several times as long.
        """
        import torch

        from workbench.study.plan.shapes import OperatingPoint
        from workbench.study.workers.baseline import choose_threads

        points = [OperatingPoint(batch, tuple(map(tuple, shape))) for batch, shape in command["points"]]
        choices = choose_threads(self._task, points, command["threads"])
        first = choices[points[0]]
        if first.threads == 1 and first.low > _CLEARLY:
            torch.set_num_threads(1)
        return {"choices": [dataclasses.asdict(choices[point]) for point in points]}


def _reused_notes(variant: Variant) -> dict[str, str]:
    """Return the note of a row with cached steps: their time is not in ``prepare_s``."""
    count = variant.reused_steps
    if not count:
        return {}
    reused = variant.reports[:count]
    which = "The first step" if count == 1 else f"The first {count} steps"
    note = (
        f"{which} ({' + '.join(report.label for report in reused)}) came from the prefix cache; their "
        f"{sum(report.seconds for report in reused):.1f} s are not in this time."
    )
    if any("cut by max_seconds" in line for report in reused for line in report.notes):
        note += " A training there was cut by max_seconds; Study(..., prefix_cache=False) trains again."
    return {"prepare_s": note}


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
        done, total = float(progress.done), float(progress.total)
        self._emit("progress", stage=progress.stage, done=done, total=total, message=progress.message, values=values)


class Prober:
    """Times variants against the first one, whose engine stays open between probes."""

    def __init__(self) -> None:
        self._cost: LatencyCost | None = None
        self._reference_ms = 0.0

    def close(self) -> None:
        """Free the reference's engine."""
        if self._cost is not None:
            self._cost.close()
            self._cost = None

    def probe(self, variant: Variant, *, engine: str | None, batch_size: int, threads: int) -> dict[str, Any]:
        """Return speedup over the reference, quality, size, and the number of removed units."""
        ratio = None if engine is None else self._ratio(variant, engine, batch_size, threads)
        trained = [report for report in variant.reports if report.epochs_done]
        epoch_s = trained[-1].seconds / trained[-1].epochs_done if trained else None
        result = {"ratio": ratio, "quality": variant.quality, "epoch_s": epoch_s}
        if not variant.reports:
            return {**result, "validation_drop": 0.0, "macs": 1.0, "params": 1.0, "units": 0, "taken": 0}
        first = variant.reports[0]
        removable = [layer for layer in first.layers if layer.touched or layer.reason.startswith("kept")]
        return {
            **result,
            "validation_drop": first.quality_before - variant.quality,
            "macs": variant.macs / first.macs_before if first.macs_before else 1.0,
            "params": variant.params / first.params_before if first.params_before else 1.0,
            "units": len(removable),
            "taken": first.touched,
        }

    def _ratio(self, variant: Variant, engine: str, batch_size: int, threads: int) -> float:
        if self._cost is None or self._cost.measures != (engine, batch_size):
            self.close()
            from workbench.measure.comparison.latency_cost import LatencyCost

            self._cost = LatencyCost(engine, batch_size=batch_size, threads=threads)
            self._reference_ms = self._cost(variant)
            return 1.0
        return self._reference_ms / self._cost(variant)


def epoch_seconds(task: Task) -> float | None:
    """Estimate the time of an epoch of distillation from one forward pass."""
    import torch

    from workbench.compress.model_ops import predict_with

    module, samples = task.model(), len(task.train)
    inputs = task.train.take(range(min(_BATCH, samples))).inputs
    with torch.no_grad():
        predict_with(module, inputs)  # the first call also allocates
        begun = time.perf_counter()
        predict_with(module, inputs)
        seconds = time.perf_counter() - begun
    return _TRAINING * seconds * samples / min(_BATCH, samples)
