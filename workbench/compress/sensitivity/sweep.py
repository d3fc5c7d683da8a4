"""Measure a sensitivity table, resuming from the cells on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.compress.layer_selection import matches, no_match_error
from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.sensitivity.evaluator import StepEvaluator
from workbench.compress.sensitivity.probe import PROBES, Probe
from workbench.compress.sensitivity.table import Cell, Sensitivity
from workbench.compress.steps import Step, step_to_dict
from workbench.core.checks import given, require_callable, require_int, require_sequence
from workbench.core.config import short_id
from workbench.core.errors import ConfigError, unknown_name
from workbench.core.files import cache_dir, write_json
from workbench.core.machine import library_versions
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.tasks.load import load_task

if TYPE_CHECKING:
    from workbench.tasks.task import Task

MEASURES = ("quality", "sqnr_db")
_FORMAT = 3
_LIBRARIES = ("torch", "torchao", "torch-pruning", "inference-workbench")


def sensitivity(
    task: Task | str,
    technique: str | Step,
    *,
    settings: Sequence[float] = (),
    layers: Sequence[str] = (),
    measure: str = "quality",
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
    cache: bool = True,
) -> Sensitivity:
    """Measure layer-wise sensitivity: change one layer at a time on a copy of the task's model.

    Parameters
    ----------
    task : Task or str
        A task, or a name or path that :func:`workbench.load_task` accepts.
    technique : str or Step
        ``"prune"``, ``"factorize"`` or ``"quantize"``; or a step with options, like ``wb.Prune(importance="taylor")``.
    settings : numbers
        Fractions of channels removed, fractions of the full rank kept, or bits. By default 0.25, 0.5 and 0.75, or all
        bits of ``Quantize``; fewer than 8 bits are weight-only.
    layers : names
        Only these layers (``*`` and ``?`` match); by default all that the technique can change.
    measure : str
        ``"quality"``: the task's metric on the validation split. ``"sqnr_db"``: SQNR of the model's outputs on the
        calibration split, in dB; faster, needs no labels, and resolves small errors.
    progress : callable
        Called for each cell; raise :class:`Cancelled` to stop. The next call resumes from the measured cells.
    cache : bool
        Keep the cells on disk (``WORKBENCH_CACHE``), by task fingerprint, options and library versions.

    Returns
    -------
    Sensitivity
        A table of layer x setting; :meth:`Sensitivity.step` makes a step with values per layer.

    Raises
    ------
    ConfigError
        If an argument is not valid, or a name matches no layer that can be changed.

    Examples
    --------
    >>> table = wb.sensitivity(task, "prune", settings=(0.25, 0.5))  # doctest: +SKIP
    >>> wb.Recipe(table.step(drop=0.01)).apply(task)  # doctest: +SKIP
    """
    require_callable("sensitivity: progress", progress, takes="each Progress report")
    require_int("sensitivity: seed", seed, minimum=0)
    names = require_sequence("sensitivity: layers", layers, of=str)
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"sensitivity: layers must hold names of layers, got {given(name)}.")
    probe = _probe(technique, require_sequence("sensitivity: settings", settings), measure)
    task = load_task(task)
    with torch.random.fork_rng(devices=[]):
        task.check()
        return _Sweep(StepEvaluator(task, measure, seed, progress), probe, names, cache).table()


def _probe(technique: str | Step, settings: Sequence[float], measure: str) -> Probe:
    if not isinstance(technique, str | Step):
        raise ConfigError(
            f"sensitivity: technique must be {' or '.join(map(repr, PROBES))}, or a step such as wb.Prune(...), got "
            f"{given(technique)}."
        )
    name = technique if isinstance(technique, str) else type(technique).__name__.lower()
    if name not in PROBES:
        raise ConfigError("sensitivity: " + unknown_name("technique", name, PROBES))
    if measure not in MEASURES:
        raise ConfigError("sensitivity: " + unknown_name("measure", measure, MEASURES))
    probe = PROBES[name](None if isinstance(technique, str) else technique)
    return probe.with_settings(settings) if settings else probe


class _Sweep:
    """The measurement of one table; ``results`` is the cache's JSON: base value, layers and cells."""

    def __init__(self, evaluator: StepEvaluator, probe: Probe, layers: tuple[str, ...], cache: bool) -> None:
        self.evaluator, self.probe, self.patterns = evaluator, probe, layers
        self.task, self.module, self.progress = evaluator.task, evaluator.module, evaluator.progress
        self.params, self.macs = count_params(self.module), count_macs(self.module, self.task.examples(2))
        self.path = self._path() if cache else None
        self.results: dict[str, Any] = _read(self.path)

    def table(self) -> Sensitivity:
        """Measure the missing cells and return the table."""
        base = self._base()
        names = self._layers()
        each, done = len(self.probe.settings), 0
        total = len(names) * each
        covered: set[str] = set()
        cells: list[Cell] = []
        for place, name in enumerate(names, start=1):
            if name in covered:  # it changes together with a measured layer
                continue
            finished = done + each
            for setting in self.probe.settings:
                cell = self._cell(name, setting, Progress("sensitivity", done, total, f"{name} at {setting:g}"))
                covered.update(cell.members)
                cells.append(cell)
                done += 1
                total = finished + each * sum(later not in covered for later in names[place:])
                figures = {} if cell.value is None else {self.evaluator.measure: cell.value}
                self.progress(Progress("sensitivity", done, total, f"{name} at {setting:g}", figures))
        end = max(done, 1)  # an empty table is finished too
        self.progress(Progress("sensitivity", end, end, "the table is complete"))
        return Sensitivity(
            task=self.task.name,
            technique=self.probe.technique,
            measure=self.evaluator.measure,
            base=base,
            template=self.probe.step,
            layers=tuple(self._candidates()),
            cells=tuple(cells),
        )

    def _base(self) -> float:
        if self.evaluator.measure != "quality":
            return 0.0
        if "base" not in self.results:
            self.progress(Progress("sensitivity", message="measuring the float model"))
            self.results["base"] = self.evaluator.value(self.module)
            self._save()
        return float(self.results["base"])

    def _candidates(self) -> list[str]:
        """Return the layers that change with one of the settings; the cache keeps them per settings."""
        layers: dict[str, list[str]] = self.results.setdefault("layers", {})
        key = " ".join(f"{setting:g}" for setting in self.probe.settings)
        if key not in layers:
            report = Progress("sensitivity", message="finding the layers")
            self.progress(report)
            layers[key] = self.probe.layers(self.module, lambda step: self.evaluator.run(step, report))
            self._save()
        return layers[key]

    def _layers(self) -> list[str]:
        names = self._candidates()
        for pattern in self.patterns:
            if not any(matches(name, pattern) for name in names):
                raise no_match_error(
                    f"sensitivity: no layer that {self.probe.technique} can change is called", pattern, names
                )
        return [name for name in names if not self.patterns or any(matches(name, p) for p in self.patterns)]

    def _cell(self, name: str, setting: float, report: Progress) -> Cell:
        cells = self.results.setdefault("cells", {})
        key = f"{name}={setting:g}"
        if key not in cells:
            self.progress(report)
            cells[key] = dataclasses.asdict(self._measure(name, setting, report))
            self._save()
        return Cell(**{**cells[key], "members": tuple(cells[key]["members"])})

    def _measure(self, name: str, setting: float, report: Progress) -> Cell:
        step = self.probe.step_for(name, setting, self._candidates())
        outcome = self.evaluator.run(step, report)
        kind = type(self.module.get_submodule(name)).__name__
        reports = {layer.name: layer for layer in outcome.layers}
        if not self.probe.applies(reports, name):
            return Cell(name, kind, (name,), setting, None, 1.0, 1.0, 1.0, reports[name].reason)
        members = self.probe.members(self.module, outcome, name)
        value = self.evaluator.value(outcome.module)
        if outcome.quantized:
            layers = [self.module.get_submodule(member) for member in members]
            owned = sum(p.numel() for layer in layers for key, p in layer.named_parameters() if "bias" not in key)
            params, macs, size = 1.0, 1.0, 1 - owned * (1 - setting / 32) / self.params
        else:
            params = count_params(outcome.module) / self.params
            macs, size = count_macs(outcome.module, self.task.examples(2)) / max(1, self.macs), params
        return Cell(name, kind, members, setting, value, params, macs, size, reports[name].reason)

    def _path(self) -> Path:
        key = {
            "format": _FORMAT,
            "task": self.task.fingerprint,
            "step": step_to_dict(self.probe.step),
            "measure": self.evaluator.measure,
            "seed": self.evaluator.seed,
            "libraries": library_versions(_LIBRARIES),
        }
        return cache_dir() / "sensitivity" / f"{short_id(key)}.json"

    def _save(self) -> None:
        if self.path is not None:
            write_json(self.path, self.results)


def _read(path: Path | None) -> dict[str, Any]:
    """Return the cached results; empty if the file is missing or damaged."""
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}
