"""Warm starts: points without training first, and crossover of trained steps with the best point."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step
from workbench.study.search.domain import Choice, Domain, Maybe, Varied, representative_values
from workbench.study.search.space import Space, meaning
from workbench.study.search.template import Node, Picked

TRAINING = ("epochs", "qat_epochs", "recover_epochs", "sparse_epochs", "dense_epochs")
"""Options of steps for the length of training; 0 is none."""
MOST = 6


def training_free_points(space: Space, *, most: int = MOST) -> list[dict[str, Any]]:
    """Return parameters of points without training, if other points of the space train.

    They cover optional and chosen steps, more steps first, on every backend; the sampler chooses the options of the
    steps. With them first, a search has a result within a minute, and has compared the engines before any training.

    Examples
    --------
    >>> import workbench as wb
    >>> space = wb.Space(wb.maybe(wb.Distill()), wb.maybe(wb.Quantize()), backends=("onnxruntime", "openvino"))
    >>> untrained(space, most=1)
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
    return any(representative_values(value)[-1] > 0 for name, value in _options(kind, options) if name in TRAINING)


def _options(kind: type[Step], options: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    yield from (defaults | dict(options)).items()


def _can_train(node: Node) -> bool:
    part = node.part
    if isinstance(part, Maybe | Choice):
        return any(map(_can_train, node.inner))
    return part is not None and _trained(part)


def _trained(part: Any) -> bool:
    if isinstance(part, Recipe):
        return any(map(trains, part.steps))
    return trains((part.step, part.options) if isinstance(part, Varied) else part)


def _ways(node: Node) -> list[dict[str, Any]]:
    """Return the choices of a part without training."""
    part = node.part
    if isinstance(part, Maybe):
        return [*({node.name: True, **way} for way in _together(node.inner)), {node.name: False}]
    if isinstance(part, Choice):
        inner = zip(part.values(), node.inner, strict=True)
        return [{node.name: value, **way} for value, one in inner for way in _ways(one)]
    return [] if part is not None and _trained(part) else [{}]


def _together(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    return [functools.reduce(lambda a, b: a | b, ways, {}) for ways in itertools.product(*map(_ways, nodes))]


def _trains_at(node: Node, params: Mapping[str, Any]) -> bool:
    def drawn(name: str, domain: Domain) -> Any:
        return meaning(domain, params[name])

    return any(map(trains, node.pick(drawn)))
