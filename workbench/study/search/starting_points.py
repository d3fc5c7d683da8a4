"""Starting points of a search: from tables of sensitivity, without training, and by crossover with the best point."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Factorize, Prune, Quantize, Step
from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.study.search.domain import Between, Choice, Domain, Maybe, Varied, representative_values
from workbench.study.search.space import Space, value_at
from workbench.study.search.template import Node, Picked

if TYPE_CHECKING:
    from workbench.compress.sensitivity import Sensitivity
    from workbench.tasks.task import Task

# technique: step, option of its settings, and True if a larger setting removes more
_OPTIONS: dict[str, tuple[type[Step], str, bool]] = {
    "prune": (Prune, "ratio", True),
    "factorize": (Factorize, "ratio", False),
    "quantize": (Quantize, "bits", False),
}
TRAINING = ("epochs", "qat_epochs", "recover_epochs", "sparse_epochs", "dense_epochs")
"""Options of steps for the length of training; 0 is none."""
MOST = 6


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


def training_free_points(space: Space, *, most: int = MOST) -> list[dict[str, Any]]:
    """Return parameters of points without training, if other points of the space train.

    They cover optional and chosen steps, more steps first, on every backend; the sampler chooses the options of the
    steps. With them first, a search has a result within a minute, and has compared the engines before any training.

    Examples
    --------
    >>> import workbench as wb
    >>> space = wb.Space(wb.maybe(wb.Distill()), wb.maybe(wb.Quantize()), backends=("onnxruntime", "openvino"))
    >>> training_free_points(space, most=1)
    [{'distill?': False, 'int8?': True, 'backend': 'onnxruntime'}]
    """
    if not any(_can_train(node) for node in space.template):
        return []
    ways = _together(space.template)
    ways.sort(key=lambda way: -sum(value is not None and value is not False for value in way.values()))
    backends = [{"backend": name} for name in space.backends] if len(space.backends) > 1 else [{}]
    return [{**way, **backend} for way, backend in itertools.product(ways, backends)][:most]


def crossover(space: Space, params: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the best point with the trained steps of another one, which are cached; None if that trained nothing."""
    trained = [_trains_at(node, params) for node in space.template]
    if not any(trained):
        return None
    shared = dict(best)
    for node, here in zip(space.template, trained, strict=True):
        if here or _trains_at(node, best):
            names = {name for name, _ in node.domains()}
            shared = {name: value for name, value in shared.items() if name not in names}
            shared |= {name: value for name, value in params.items() if name in names}
    return shared


def trains(picked: Picked) -> bool:
    """Return True if a chosen step trains."""
    if isinstance(picked, Step):
        return any(getattr(picked, name, 0.0) > 0 for name in TRAINING)
    kind, options = picked
    values = {field.name: field.default for field in dataclasses.fields(kind)} | dict(options)  # type: ignore[arg-type]
    return any(representative_values(values[name])[-1] > 0 for name in TRAINING if name in values)


def _can_train(node: Node) -> bool:
    part = node.part
    if isinstance(part, Maybe | Choice):
        return any(map(_can_train, node.inner))
    if isinstance(part, Recipe):
        return any(map(trains, part.steps))
    return part is not None and trains((part.step, part.options) if isinstance(part, Varied) else part)


def _ways(node: Node) -> list[dict[str, Any]]:
    """Return the choices of a part without training."""
    part = node.part
    if isinstance(part, Maybe):
        return [*({node.name: True, **way} for way in _together(node.inner)), {node.name: False}]
    if isinstance(part, Choice):
        inner = zip(part.values(), node.inner, strict=True)
        return [{node.name: value, **way} for value, one in inner for way in _ways(one)]
    return [] if _can_train(node) else [{}]


def _together(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    return [functools.reduce(lambda a, b: a | b, ways, {}) for ways in itertools.product(*map(_ways, nodes))]


def _trains_at(node: Node, params: Mapping[str, Any]) -> bool:
    return any(map(trains, node.pick(functools.partial(value_at, params))))
