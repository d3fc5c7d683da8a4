"""The sensitivity table and the values per layer that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch

from workbench.compress.pareto_allocation import Point, allocate, lower_hull
from workbench.compress.sensitivity.evaluator import StepEvaluator, decibels, largest_holding
from workbench.compress.sensitivity.probe import PROBES
from workbench.compress.steps import Step
from workbench.core.checks import given, require_callable, require_int
from workbench.core.errors import ConfigError, unknown_name
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.tasks.load import load_task

if TYPE_CHECKING:
    import pandas as pd

    from workbench.tasks.task import Task

_COSTS = ("macs", "params", "size")


@dataclass(frozen=True)
class Cell:
    """One layer at one setting, all other layers unchanged.

    ``value`` is the quality, or for ``sqnr_db`` the noise share of the outputs' energy (the mean over outputs); None if
    the setting does not exist for the layer (see ``note``). ``params``, ``macs`` and ``size`` (bits of all weights) are
    fractions of the float model's. ``members`` are the layers that change together.
    """

    layer: str
    type: str
    members: tuple[str, ...]
    setting: float
    value: float | None
    params: float
    macs: float
    size: float
    note: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """Layer x setting, measured one layer at a time; see :func:`workbench.sensitivity`.

    Attributes
    ----------
    technique : str
        prune (settings: fraction of channels removed), factorize (fraction of the full rank kept), quantize (bits).
    measure : str
        ``"quality"`` on the validation split, or ``"sqnr_db"`` of the outputs on the calibration split.
    base : float
        Quality of the float model; 0 for ``sqnr_db``.
    """

    task: str
    technique: str
    measure: str
    base: float
    template: Step
    layers: tuple[str, ...]
    cells: tuple[Cell, ...]

    def __repr__(self) -> str:
        settings = ", ".join(f"{setting:g}" for setting in dict.fromkeys(cell.setting for cell in self.cells))
        layers = len(dict.fromkeys(cell.layer for cell in self.cells))
        return f"Sensitivity({self.technique} of task {self.task!r}, {self.measure}: {layers} layers" + (
            f" at {settings})" if settings else ")"
        )

    def frame(self) -> pd.DataFrame:
        """Return one row per cell: layer, setting, quality and its drop or SQNR, and the remaining fractions.

        Cells whose setting does not exist for the layer have NaN, and the reason in ``note``.
        """
        import pandas as pd

        measured = ["quality", "quality_drop"] if self.measure == "quality" else ["sqnr_db"]
        shares = {f"{cost}_share": cost for cost in _COSTS}
        rows = []
        for cell in self.cells:
            values: list[float | None] = [None] * len(measured)
            if cell.value is not None:
                by_quality = self.measure == "quality"
                values = [cell.value, self.base - cell.value] if by_quality else [decibels(cell.value)]
            remaining = [getattr(cell, cost) for cost in shares.values()]
            rows.append([cell.layer, cell.type, ", ".join(cell.members), cell.setting, *values, *remaining, cell.note])
        frame = pd.DataFrame(rows, columns=["layer", "type", "members", "setting", *measured, *shares, "note"])
        return frame.astype(dict.fromkeys(measured, float))

    def settings(
        self, *, drop: float | None = None, sqnr_db: float | None = None, of: str | None = None
    ) -> dict[str, float]:
        """Return the setting of each layer to change that saves most within an allowed loss.

        Assumes that the losses of single layers add up. Large changes without training in between (pruning above all)
        lose more than the sum; tables of ``sqnr_db`` predict them better. :meth:`fit` measures the joint loss.

        Parameters
        ----------
        drop : float
            Largest drop of quality, in the metric's units; for tables of ``quality``.
        sqnr_db : float
            Smallest SQNR of the outputs (dB); for tables of ``sqnr_db``.
        of : str
            Cost to save: ``"macs"``, ``"params"`` or ``"size"``; by default MACs, and size for bits.

        Raises
        ------
        ConfigError
            If the goal is missing, not finite, or of the other measure.
        """
        allowed = self._allowed(drop, sqnr_db)
        of = _cost_named(of or ("size" if self.technique == "quantize" else "macs"))
        choices = {layer: self._hull(layer, of) for layer in dict.fromkeys(cell.layer for cell in self.cells)}
        paths: dict[str, list[Point]] = {
            layer: [(1.0, 0.0), *((getattr(cell, of), self._loss(cell)) for cell in cells)]
            for layer, cells in choices.items()
        }
        chosen: dict[str, float] = {}
        spent = 0.0

        def accept(layer: str, place: int) -> bool:
            nonlocal spent
            loss = paths[layer][place][1] - paths[layer][place - 1][1]
            if spent + loss > allowed + 1e-12:
                return False
            spent += loss
            chosen[layer] = choices[layer][place - 1].setting
            return True

        allocate(paths, accept)
        return {layer: chosen[layer] for layer in choices if layer in chosen}

    def step(self, *, drop: float | None = None, sqnr_db: float | None = None, of: str | None = None) -> Step:
        """Return the technique's step with the values of :meth:`settings`, ready for a Recipe.

        ``Prune`` and ``Factorize`` get a ratio per layer. ``Quantize`` leaves the other layers in float, and has the
        number of bits that saves most.

        Raises
        ------
        ConfigError
            As :meth:`settings`, and if no layer can change within the allowed loss.
        """
        self._allowed(drop, sqnr_db)
        if not self.cells:
            raise ConfigError(
                f"Sensitivity.step: the table has no rows, because {self.technique} can change no layer at its "
                "settings. Measure others: wb.sensitivity(task, ..., settings=(...))."
            )
        best = self
        if self.technique == "quantize":
            best = max(
                self._by_setting(), key=lambda table: table.saved(table.settings(drop=drop, sqnr_db=sqnr_db, of=of))
            )
        values = best.settings(drop=drop, sqnr_db=sqnr_db, of=of)
        if not values:
            goal = f"drop={drop:g}" if drop is not None else f"sqnr_db={sqnr_db:g}"
            raise ConfigError(
                f"Sensitivity.step({goal}): every layer costs more at every setting. Allow more, or measure milder "
                "settings."
            )
        return PROBES[self.technique](self.template).step_with(values, self.layers)

    def fit(
        self,
        task: Task | str,
        *,
        drop: float | None = None,
        sqnr_db: float | None = None,
        of: str | None = None,
        tries: int = 6,
        seed: int = 0,
        progress: ProgressCallback = ignore_progress,
    ) -> Step:
        """Return the largest :meth:`step` that meets the goal when all its layers change together, without training.

        Measures up to ``tries`` different steps on copies of the task's model, by bisection of the allowed loss.

        Raises
        ------
        ConfigError
            As :meth:`step`; if the table is of another task; or if no measured step meets the goal.

        Examples
        --------
        >>> table = wb.sensitivity(task, "factorize")  # doctest: +SKIP
        >>> wb.Recipe(table.fit(task, drop=0.01)).apply(task)  # doctest: +SKIP
        """
        goal, by_quality = self._allowed(drop, sqnr_db), self.measure == "quality"
        require_int("Sensitivity.fit: tries", tries, minimum=1)
        require_int("Sensitivity.fit: seed", seed, minimum=0)
        require_callable("Sensitivity.fit: progress", progress, takes="each Progress report")
        task = load_task(task)
        if task.name != self.task:
            raise ConfigError(f"Sensitivity.fit: the table is of task {self.task!r}, got {task.name!r}.")
        task.check()
        evaluator = StepEvaluator(task, self.measure, seed, progress)

        def step_for(allowed: float) -> Step:
            return self.step(drop=allowed, of=of) if by_quality else self.step(sqnr_db=decibels(allowed), of=of)

        def loss(step: Step) -> float:
            report = Progress("sensitivity", message=f"measuring {step.label} as a whole")
            progress(report)
            with torch.random.fork_rng(devices=[]):
                value = evaluator.value(evaluator.run(step, report).module)
            return self.base - value if by_quality else value

        def describe(loss: float) -> str:
            return f"a drop of {loss:.4g}" if by_quality else f"{decibels(loss):.1f} dB"

        return largest_holding(step_for, loss, goal, tries=tries, describe=describe)

    def saved(self, values: Mapping[str, float], of: str = "size") -> float:
        """Return the summed savings of single layers at these settings, as a fraction of the model."""
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"Sensitivity.saved takes a dict of layer to setting, as settings(...) returns, got {given(values)}."
            )
        _cost_named(of)
        return math.fsum(1 - getattr(cell, of) for cell in self.cells if values.get(cell.layer) == cell.setting)

    def _by_setting(self) -> list[Sensitivity]:
        settings = dict.fromkeys(cell.setting for cell in self.cells)
        return [replace(self, cells=tuple(c for c in self.cells if c.setting == one)) for one in settings]

    def _allowed(self, drop: Any, sqnr_db: Any) -> float:
        by_quality = self.measure == "quality"
        name, goal, other = ("drop", drop, sqnr_db) if by_quality else ("sqnr_db", sqnr_db, drop)
        if goal is None or other is not None:
            raise ConfigError(
                f"This table measured {self.measure}: give {name}=... alone, got drop={drop!r}, sqnr_db={sqnr_db!r}."
            )
        if isinstance(goal, bool) or not isinstance(goal, Real) or not math.isfinite(goal):
            raise ConfigError(f"Sensitivity: {name} must be a finite number, got {given(goal)}.")
        if by_quality and goal < 0:
            raise ConfigError(f"Sensitivity: drop must be at least 0, got {goal!r}.")
        return float(goal) if by_quality else 10 ** (-float(goal) / 10)

    def _hull(self, layer: str, of: str) -> list[Cell]:
        cells = [cell for cell in self.cells if cell.layer == layer and cell.value is not None]
        points = [(1.0, 0.0), *((getattr(cell, of), self._loss(cell)) for cell in cells)]
        return [cells[place - 1] for place in lower_hull(points)[1:]]

    def _loss(self, cell: Cell) -> float:
        value = cell.value if cell.value is not None else math.inf
        return max(0.0, self.base - value if self.measure == "quality" else value)


def _cost_named(of: str) -> str:
    if of not in _COSTS:
        raise ConfigError("Sensitivity: " + unknown_name("cost (of)", of, _COSTS))
    return of
