"""Measure a table of sensitivity, or what is missing of it on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.compress.apply import run_step
from workbench.compress.graph.outputs import relative_squared_error
from workbench.compress.handlers import Outcome, Work
from workbench.compress.layer_selection import matches, no_match_error
from workbench.compress.model_ops import count_macs, count_params, predict_with
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
from workbench.tasks.module import copied_module
from workbench.tasks.trees import Tree, leaves

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
    """Change one layer at a time on a copy of the task's model, and measure what that costs and saves.

    Parameters
    ----------
    task : Task or str
        Or what :func:`workbench.load_task` understands.
    technique : str or Step
        ``"prune"``, ``"factorize"`` or ``"quantize"``; or a step, whose other options then hold:
        ``wb.Prune(importance="taylor")``.
    settings : numbers
        Shares of channels removed, shares of the full rank kept, or bits. By default 0.25, 0.5 and 0.75, or what
        bits ``Quantize`` has; fewer than 8 bits are for weights alone.
    layers : names
        Only these (``*`` and ``?`` match); by default all that the technique can change.
    measure : str
        ``"quality"``: the task's metric on the validation split. ``"sqnr_db"``, the quick mode: how far the model's
        outputs on the calibration split stand above the error made, in dB; needs no labels and shows small errors.
    progress : callable
        Called for every cell; raising :class:`Cancelled` in it stops the work. What was measured is kept, and the
        next call goes on from there.
    cache : bool
        Keep the cells on disk (``WORKBENCH_CACHE``), by the task's fingerprint, the options and the libraries.

    Returns
    -------
    Sensitivity
        A table of layer x setting, which makes a step with values per layer: :meth:`Sensitivity.step`.

    Raises
    ------
    ConfigError
        If the technique, a setting or the measure is unknown, an argument is of a wrong type, or a name matches no
        layer that can be changed.

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
        return _Run(task, probe, names, measure, seed, progress, cache).table()


def _probe(technique: str | Step, settings: Sequence[float], measure: str) -> Probe:
    if not isinstance(technique, str | Step):
        raise ConfigError(
            f"sensitivity: technique must be {' or '.join(map(repr, PROBES))}, or a step such as wb.Prune(...), got "
            f"{given(technique)}."
        )
    word = technique if isinstance(technique, str) else type(technique).__name__.lower()
    if word not in PROBES:
        raise ConfigError("sensitivity: " + unknown_name("technique", word, PROBES))
    if measure not in MEASURES:
        raise ConfigError("sensitivity: " + unknown_name("measure", measure, MEASURES))
    probe = PROBES[word](None if isinstance(technique, str) else technique)
    return probe.with_settings(settings) if settings else probe


class Judge:
    """Measures whole steps as a table measured single layers, on the model that the table is of."""

    def __init__(self, table: Sensitivity, task: Task | str, *, seed: int, progress: ProgressCallback) -> None:
        require_int("Sensitivity.fit: seed", seed, minimum=0)
        require_callable("Sensitivity.fit: progress", progress, takes="each Progress report")
        task = load_task(task)
        if task.name != table.task:
            raise ConfigError(
                f"Sensitivity.fit: the table is of task {table.task!r}, got {task.name!r}. Give that one."
            )
        task.check()
        probe = PROBES[table.technique](table.template)
        self._run = _Run(task, probe, (), table.measure, seed, progress, cache=False)
        self._base, self._progress, self._tried = table.base, progress, 0

    def loss(self, step: Step) -> float:
        """Return the drop of quality, or the share of the error in the energy of the outputs."""
        self._tried += 1
        here = Progress("sensitivity", message=f"measuring step {self._tried} as a whole")
        self._progress(here)
        with torch.random.fork_rng(devices=[]):
            value = self._run.value_of(step, here)
        return self._base - value if self._run.measure == "quality" else value


class _Run:
    """One table in the making."""

    def __init__(
        self,
        task: Task,
        probe: Probe,
        layers: tuple[str, ...],
        measure: str,
        seed: int,
        progress: ProgressCallback,
        cache: bool,
    ) -> None:
        self.task, self.probe, self.measure, self.seed, self.progress = task, probe, measure, seed, progress
        self.patterns = layers
        self.module = task.model()
        self.params, self.macs = count_params(self.module), count_macs(self.module, task.examples(2))
        self.path = self._path() if cache else None
        self.known: dict[str, Any] = _read(self.path)
        self._reference: Tree = None

    def table(self) -> Sensitivity:
        """Measure what is not known yet."""
        base = self._base()
        names = self._layers()
        each, done = len(self.probe.settings), 0
        total = len(names) * each
        taken: set[str] = set()
        cells: list[Cell] = []
        for place, name in enumerate(names, start=1):
            if name in taken:  # it changes with a layer that was measured
                continue
            finished = done + each
            for setting in self.probe.settings:
                cell = self._cell(name, setting, names, Progress("sensitivity", done, total, f"{name} at {setting:g}"))
                taken.update(cell.members)
                cells.append(cell)
                done += 1
                total = finished + each * sum(later not in taken for later in names[place:])
                figures = {} if cell.value is None else {self.measure: cell.value}
                self.progress(Progress("sensitivity", done, total, f"{name} at {setting:g}", figures))
        end = max(done, 1)  # a table without rows is finished too
        self.progress(Progress("sensitivity", end, end, "the table is complete"))
        return Sensitivity(
            task=self.task.name,
            technique=self.probe.technique,
            measure=self.measure,
            base=base,
            template=self.probe.step,
            layers=tuple(self._candidates()),
            cells=tuple(cells),
        )

    def _base(self) -> float:
        if self.measure != "quality":
            return 0.0
        if "base" not in self.known:
            self.progress(Progress("sensitivity", message="measuring the float model"))
            self.known["base"] = self._value(self.module)
            self._keep()
        return float(self.known["base"])

    def _candidates(self) -> list[str]:
        """Return the layers that change with one of the settings; other settings may reach others."""
        known: dict[str, list[str]] = self.known.setdefault("layers", {})
        key = " ".join(f"{setting:g}" for setting in self.probe.settings)
        if key not in known:
            self.progress(Progress("sensitivity", message="finding the layers"))
            known[key] = self.probe.layers(self.module, self._run)
            self._keep()
        return known[key]

    def _layers(self) -> list[str]:
        names = self._candidates()
        for pattern in self.patterns:
            if not any(matches(name, pattern) for name in names):
                raise no_match_error(
                    f"sensitivity: no layer that {self.probe.technique} can change is called", pattern, names
                )
        return [name for name in names if not self.patterns or any(matches(name, p) for p in self.patterns)]

    def _cell(self, name: str, setting: float, names: Sequence[str], here: Progress) -> Cell:
        cells = self.known.setdefault("cells", {})
        key = f"{name}={setting:g}"
        if key not in cells:
            self.progress(here)
            cell = self._measure(name, setting, names, here)
            cells[key] = dataclasses.asdict(cell)
            self._keep()
        return Cell(**{**cells[key], "members": tuple(cells[key]["members"])})

    def _measure(self, name: str, setting: float, names: Sequence[str], here: Progress) -> Cell:
        step = self.probe.step_for(name, setting, self._candidates())
        outcome = self._run(step, here)
        kind = type(self.module.get_submodule(name)).__name__
        reports = {layer.name: layer for layer in outcome.layers}
        if not self.probe.applies(reports, name):
            return Cell(name, kind, (name,), setting, None, 1.0, 1.0, 1.0, reports[name].reason)
        members = self.probe.members(self.module, outcome, name)
        value = self._value(outcome.module)
        if outcome.quantized:
            owned = sum(_weights(self.module, member) for member in members)
            params, macs, size = 1.0, 1.0, 1 - owned * (1 - setting / 32) / self.params
        else:
            params = count_params(outcome.module) / self.params
            macs, size = count_macs(outcome.module, self.task.examples(2)) / max(1, self.macs), params
        return Cell(name, kind, members, setting, value, params, macs, size, reports[name].reason)

    def value_of(self, step: Step, here: Progress) -> float:
        """Return what the measure says of a step as a whole."""
        return self._value(self._run(step, here).module)

    def _run(self, step: Step, here: Progress | None = None) -> Outcome:
        """Carry a step out on a copy; its own progress only lets the caller cancel."""
        torch.manual_seed(self.seed)
        note = here or Progress("sensitivity", message="finding the layers")
        work = Work(self.task, copied_module(self.module), lambda _: self.progress(note), self.seed)
        return run_step(step, work)

    def _value(self, module: nn.Module) -> float:
        """Return the quality, or the share of the error in the energy of the outputs."""
        if self.measure == "quality":
            return self.task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
        if self._reference is None:
            self._reference = self._outputs(self.module)
        return relative_squared_error(leaves(self._reference), leaves(self._outputs(module)))

    def _outputs(self, module: nn.Module) -> Tree:
        return self.task.outputs(lambda inputs: predict_with(module, inputs), "calibration")

    def _path(self) -> Path:
        key = {
            "format": _FORMAT,
            "task": self.task.fingerprint,
            "step": step_to_dict(self.probe.step),
            "measure": self.measure,
            "seed": self.seed,
            "libraries": library_versions(_LIBRARIES),
        }
        return cache_dir() / "sensitivity" / f"{short_id(key)}.json"

    def _keep(self) -> None:
        if self.path is not None:
            write_json(self.path, self.known)


def _weights(module: nn.Module, name: str) -> int:
    return sum(p.numel() for key, p in module.get_submodule(name).named_parameters() if "bias" not in key)


def _read(path: Path | None) -> dict[str, Any]:
    """Return what was kept; a file that is missing or damaged is as good as none."""
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
