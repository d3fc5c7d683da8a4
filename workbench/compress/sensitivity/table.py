"""The table of sensitivity, and the values per layer that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from workbench.compress.pareto_allocation import Point, allocate, lower_hull
from workbench.compress.steps import Step
from workbench.core.checks import given, require_int
from workbench.core.errors import ConfigError, unknown_name
from workbench.core.progress import ProgressCallback, ignore_progress

if TYPE_CHECKING:
    import pandas as pd

    from workbench.tasks.task import Task

_COSTS = ("macs", "params", "size")


@dataclass(frozen=True)
class Cell:
    """One layer at one setting, all others as they are.

    ``value`` is the quality, or with ``sqnr_db`` the share of the error in the energy of the outputs (of several, the
    mean of each one's share); None where the setting does not exist for the layer, and ``note`` says why. ``params``,
    ``macs`` and ``size`` (bits of all weights) are shares of the float model's. ``members`` are the layers that change
    together.
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
        prune (settings are shares of channels removed), factorize (shares of the full rank kept), quantize (bits).
    measure : str
        ``"quality"`` on the validation split, or ``"sqnr_db"`` of the outputs on the calibration split.
    base : float
        Quality of the float model; 0 where it was not asked for.
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
        """Return a row per cell: layer, setting, quality and its drop or SQNR, and the shares that are left.

        Cells whose setting does not exist for the layer have NaN, and the reason in ``note``.
        """
        import pandas as pd

        rows = []
        for cell in self.cells:
            known = {"quality": cell.value, "quality_drop": None if cell.value is None else self.base - cell.value}
            if self.measure != "quality":
                known = {"sqnr_db": None if cell.value is None else _decibels(cell.value)}
            shares = {f"{word}_share": getattr(cell, word) for word in _COSTS}
            here = {"layer": cell.layer, "type": cell.type, "members": ", ".join(cell.members), "setting": cell.setting}
            rows.append(here | known | shares | {"note": cell.note})
        frame = pd.DataFrame(rows, columns=None if rows else self._columns())
        numbers = [name for name in ("quality", "quality_drop", "sqnr_db") if name in frame]
        return frame.astype(dict.fromkeys(numbers, float))

    def settings(
        self, *, drop: float | None = None, sqnr_db: float | None = None, of: str | None = None
    ) -> dict[str, float]:
        """Return the setting of every layer that is to be changed, so that most is saved for a loss that is allowed.

        The losses of single layers are taken to add up, as errors that do not know of each other do; noise that makes
        a layer look better than before counts as no loss. Where changes are large and nothing is trained in between
        (pruning above all), the whole loses more than the sum, and a metric that does not see small errors one by
        one sees them together: tables of ``sqnr_db`` are the better guide then. Judge the step that comes out by its
        own quality, or let :meth:`fit` do so.

        Parameters
        ----------
        drop : float
            Largest drop of quality, in the metric's units; for tables of ``quality``.
        sqnr_db : float
            Least signal-to-noise ratio of the outputs; for tables of ``sqnr_db``.
        of : str
            What is to be saved: ``"macs"``, ``"params"`` or ``"size"``; by default MACs, and size for bits.

        Raises
        ------
        ConfigError
            If not exactly the goal that the table can answer is given, or it is no finite number.
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
            more = paths[layer][place][1] - paths[layer][place - 1][1]
            if spent + more > allowed + 1e-12:
                return False
            spent += more
            chosen[layer] = choices[layer][place - 1].setting
            return True

        allocate(paths, accept)
        return {layer: chosen[layer] for layer in choices if layer in chosen}

    def step(self, *, drop: float | None = None, sqnr_db: float | None = None, of: str | None = None) -> Step:
        """Return the technique's step with the values of :meth:`settings`, ready for a Recipe.

        ``Prune`` and ``Factorize`` get a ratio for each layer, ``Quantize`` leaves the other layers in float; of
        several bits it takes one for all, the least for which most is saved.

        Raises
        ------
        ConfigError
            As :meth:`settings`, and if the table has no rows or no layer can be changed for that little.
        """
        self._allowed(drop, sqnr_db)
        if not self.cells:
            raise ConfigError(
                f"Sensitivity.step: the table has no rows, since {self.technique} can change no layer at its settings. "
                "Measure others: wb.sensitivity(task, ..., settings=(...))."
            )
        from workbench.compress.sensitivity.probe import PROBES

        probe = PROBES[self.technique](self.template)
        best = self
        if self.technique == "quantize":
            best = max(
                self._by_setting(), key=lambda table: table.saved(table.settings(drop=drop, sqnr_db=sqnr_db, of=of))
            )
        values = best.settings(drop=drop, sqnr_db=sqnr_db, of=of)
        if not values:
            goal = f"drop={drop:g}" if drop is not None else f"sqnr_db={sqnr_db:g}"
            raise ConfigError(
                f"Sensitivity.step({goal}): every layer costs more than that at every setting of the table. Allow "
                "more, or measure milder settings."
            )
        return probe.step_with(values, self.layers)

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
        """Return the largest :meth:`step` that holds the goal by measurement, all its layers changed together.

        Nothing is trained. ``tries`` different steps are carried out on copies of the task's model and measured as the
        table was (validation or calibration split); the allowance for single layers is halved or widened in between.

        Raises
        ------
        ConfigError
            As :meth:`step`; if the table is of another task; or if no step that was tried holds the goal.

        Examples
        --------
        >>> table = wb.sensitivity(task, "factorize")  # doctest: +SKIP
        >>> wb.Recipe(table.fit(task, drop=0.01)).apply(task)  # doctest: +SKIP
        """
        from workbench.compress.sensitivity.fit import largest_holding
        from workbench.compress.sensitivity.run import Judge

        goal = self._allowed(drop, sqnr_db)
        require_int("Sensitivity.fit: tries", tries, minimum=1)
        judge = Judge(self, task, seed=seed, progress=progress)

        def step_for(allowed: float) -> Step:
            if self.measure == "quality":
                return self.step(drop=allowed, of=of)
            return self.step(sqnr_db=_decibels(allowed), of=of)

        def words(loss: float) -> str:
            return f"a drop of {loss:.4g}" if self.measure == "quality" else f"{_decibels(loss):.1f} dB"

        return largest_holding(step_for, judge.loss, goal, tries=tries, words=words)

    def saved(self, values: Mapping[str, float], of: str = "size") -> float:
        """Return the sum of what single layers save at these settings, as a share of the model."""
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"Sensitivity.saved takes a dict of layers and settings, as settings(...) returns, got {given(values)}."
            )
        _cost_named(of)
        return math.fsum(1 - getattr(cell, of) for cell in self.cells if values.get(cell.layer) == cell.setting)

    def _by_setting(self) -> list[Sensitivity]:
        settings = dict.fromkeys(cell.setting for cell in self.cells)
        return [replace(self, cells=tuple(c for c in self.cells if c.setting == one)) for one in settings]

    def _allowed(self, drop: Any, sqnr_db: Any) -> float:
        wanted, goal = ("drop", drop) if self.measure == "quality" else ("sqnr_db", sqnr_db)
        other = sqnr_db if self.measure == "quality" else drop
        if goal is None or other is not None:
            raise ConfigError(
                f"This table measured {self.measure}: give {wanted}=... and nothing else, got drop={drop!r}, "
                f"sqnr_db={sqnr_db!r}."
            )
        if isinstance(goal, bool) or not isinstance(goal, Real) or not math.isfinite(goal):
            raise ConfigError(f"Sensitivity: {wanted} must be a finite number, got {given(goal)}.")
        if self.measure == "quality" and goal < 0:
            raise ConfigError(f"Sensitivity: drop must be at least 0, got {goal!r}.")
        return float(goal) if self.measure == "quality" else 10 ** (-float(goal) / 10)

    def _columns(self) -> list[str]:
        """Return the columns of a frame without rows."""
        known = ["quality", "quality_drop"] if self.measure == "quality" else ["sqnr_db"]
        return ["layer", "type", "members", "setting", *known, *(f"{word}_share" for word in _COSTS), "note"]

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


def _decibels(noise: float) -> float:
    return -10 * math.log10(noise) if noise > 0 else math.inf
