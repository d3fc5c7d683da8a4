"""Where a search starts: what a table of sensitivity says is about as much as the goal allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.compress.steps import Factorize, Prune, Quantize, Step
from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.study.search.domain import Between, Domain
from workbench.study.search.space import Space

if TYPE_CHECKING:
    from workbench.compress.sensitivity import Sensitivity
    from workbench.tasks.task import Task

# technique: the option that its settings are values of, and whether a larger one takes more away
_OPENED: dict[str, tuple[type[Step], str, bool]] = {
    "prune": (Prune, "ratio", True),
    "factorize": (Factorize, "ratio", False),
    "quantize": (Quantize, "bits", False),
}


def starting_points(
    prior: Sensitivity | Sequence[Sensitivity] | None, space: Space, *, drop: float, task: Task
) -> list[dict[str, Any]]:
    """Return the parameters that a search proposes first, two points for each table at most.

    The losses of single layers at one setting are taken to add up, see :meth:`Sensitivity.settings`. The first point is
    the setting that takes most away for a predicted loss of at most ``drop`` (the mildest one where none does), the
    second the next harder one: what is trained afterwards wins something back. What a point leaves open the sampler
    chooses.

    Raises
    ------
    ConfigError
        If a table is of another task, was not measured in quality, or speaks of an option that the space leaves closed.
    """
    found: list[dict[str, Any]] = []
    for table in _tables(prior):
        if table.task != task.name:
            raise ConfigError(f"search: the prior is of task {table.task!r}, and this study of {task.name!r}.")
        if table.measure != "quality":
            raise ConfigError(
                f"search: the prior was measured in {table.measure}, and the goal is a drop of quality. Give "
                f"wb.sensitivity(task, {table.technique!r}, measure='quality')."
            )
        step, option, more = _OPENED[table.technique]
        path = space.path_to(step, option)
        if path is None:
            raise ConfigError(
                f"search: the prior is of {table.technique}, and the space leaves {step.__name__}.{option} closed. "
                f"Write wb.vary(wb.{step.__name__}, {option}=...), or leave the prior out."
            )
        name = next(key for key, value in path.items() if value is None)
        for setting in first_settings(table, drop=drop, more=more):
            point = {**path, name: _nearest(space.domains[name], setting)}
            if point not in found:
                found.append(point)
    return found


def first_settings(table: Sensitivity, *, drop: float, more: bool) -> list[float]:
    """Return the hardest setting whose predicted loss is at most ``drop``, and the next harder one.

    ``more`` says whether a larger setting takes more away.
    """
    losses: dict[float, float] = {}
    for cell in table.cells:
        if cell.value is not None:
            losses[cell.setting] = losses.get(cell.setting, 0.0) + max(0.0, table.base - cell.value)
    ordered = sorted(losses, reverse=not more)
    held = [place for place, setting in enumerate(ordered) if losses[setting] <= drop]
    first = max(held, default=0)
    return ordered[first : first + 2]


def _tables(prior: Any) -> Sequence[Sensitivity]:
    from workbench.compress.sensitivity import Sensitivity

    tables = () if prior is None else (prior,) if isinstance(prior, Sensitivity) else prior
    if not isinstance(tables, list | tuple) or not all(isinstance(table, Sensitivity) for table in tables):
        raise ConfigError(
            f"search: prior must be what wb.sensitivity(...) returned, or a list of such, got {given(prior)}."
        )
    return tables


def _nearest(domain: Domain, setting: float) -> Any:
    if isinstance(domain, Between):
        near = domain.nearest(setting)
        return int(near) if domain.whole else float(near)
    numbers = [v for v in domain.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    return min(numbers, key=lambda value: abs(value - setting)) if numbers else domain.values()[0]
