"""Starting points of a search from tables of sensitivity."""

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

# technique: step, option of its settings, and True if a larger setting removes more
_OPTIONS: dict[str, tuple[type[Step], str, bool]] = {
    "prune": (Prune, "ratio", True),
    "factorize": (Factorize, "ratio", False),
    "quantize": (Quantize, "bits", False),
}


def starting_points(
    prior: Sensitivity | Sequence[Sensitivity] | None, space: Space, *, drop: float, task: Task
) -> list[dict[str, Any]]:
    """Return the parameters of the first proposals, at most two points for each table.

    The losses of single layers are assumed to add up, see :meth:`Sensitivity.settings`. The first point is the
    strongest setting with a predicted loss of at most ``drop`` (else the weakest setting), the second the next
    stronger one, because training recovers some loss. The sampler chooses the other parameters.

    Raises
    ------
    ConfigError
        If a table is of another task, was not measured in quality, or is of an option that the space does not vary.
    """
    points: list[dict[str, Any]] = []
    for table in _tables(prior):
        if table.task != task.name:
            raise ConfigError(f"search: prior must be of the study's task {task.name!r}, got {table.task!r}.")
        if table.measure != "quality":
            raise ConfigError(
                f"search: prior must be measured in quality, got {table.measure}. Write wb.sensitivity(task, "
                f"{table.technique!r}, measure='quality')."
            )
        step, option, larger_removes_more = _OPTIONS[table.technique]
        path = space.path_to(step, option)
        if path is None:
            raise ConfigError(
                f"search: a prior of {table.technique} needs a space that varies {step.__name__}.{option}. "
                f"Write wb.vary(wb.{step.__name__}, {option}=...), or leave the prior out."
            )
        name = next(key for key, value in path.items() if value is None)
        for setting in first_settings(table, drop=drop, larger_removes_more=larger_removes_more):
            point = {**path, name: _nearest(space.domains[name], setting)}
            if point not in points:
                points.append(point)
    return points


def first_settings(table: Sensitivity, *, drop: float, larger_removes_more: bool) -> list[float]:
    """Return the strongest setting with a predicted loss of at most ``drop``, and the next stronger one."""
    losses: dict[float, float] = {}
    for cell in table.cells:
        if cell.value is not None:
            losses[cell.setting] = losses.get(cell.setting, 0.0) + max(0.0, table.base - cell.value)
    ordered = sorted(losses, reverse=not larger_removes_more)
    held = [place for place, setting in enumerate(ordered) if losses[setting] <= drop]
    first = max(held, default=0)
    return ordered[first : first + 2]


def _tables(prior: Any) -> Sequence[Sensitivity]:
    from workbench.compress.sensitivity import Sensitivity

    tables = () if prior is None else (prior,) if isinstance(prior, Sensitivity) else prior
    if not isinstance(tables, list | tuple) or not all(isinstance(table, Sensitivity) for table in tables):
        raise ConfigError(
            f"search: prior must be a result of wb.sensitivity(...), or a list of them, got {given(prior)}."
        )
    return tables


def _nearest(domain: Domain, setting: float) -> Any:
    if isinstance(domain, Between):
        near = domain.nearest(setting)
        return int(near) if domain.whole else float(near)
    numbers = [v for v in domain.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    return min(numbers, key=lambda value: abs(value - setting)) if numbers else domain.values()[0]
