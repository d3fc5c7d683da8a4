"""Recipe templates: the parts of a search space with the names of their parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import STEP_TYPES, Step, step_to_dict
from workbench.core.checks import given
from workbench.core.errors import ConfigError
from workbench.study.search.domain import Between, Choice, Domain, Draw, Maybe, Varied, label, unique_name

YES_NO = Choice((True, False))
Picked = tuple[type[Step], tuple[tuple[str, Any], ...]] | Step
"""A chosen step: its type and options, or the step itself."""


@dataclass(frozen=True)
class Node:
    """A part of a template, the name of its parameter, and its inner parts."""

    part: Any
    name: str
    inner: tuple[Node, ...] = ()

    def pick(self, draw: Draw) -> Iterator[Picked]:
        """Yield the steps chosen by ``draw``."""
        if isinstance(self.part, Recipe):
            yield from self.part.steps
        elif isinstance(self.part, Step):
            yield self.part
        elif isinstance(self.part, Varied):
            drawn = {name: draw(f"{self.name}.{name}", value) for name, value in self._open()}
            yield self.part.step, tuple({**dict(self.part.options), **drawn}.items())
        elif isinstance(self.part, Maybe):
            for node in self.inner if draw(self.name, YES_NO) else ():
                yield from node.pick(draw)
        elif isinstance(self.part, Choice):
            chosen = draw(self.name, self.part)
            yield from next(node for node in self.inner if node.part is chosen).pick(draw)

    def domains(self) -> Iterator[tuple[str, Domain]]:
        """Yield its parameters with their domains."""
        if isinstance(self.part, Varied):
            yield from ((f"{self.name}.{name}", value) for name, value in self._open())
        elif isinstance(self.part, Maybe | Choice):
            yield self.name, self.part if isinstance(self.part, Choice) else YES_NO
        for node in self.inner:
            yield from node.domains()

    def options(self) -> Iterator[str]:
        """Yield the names of the open options of its steps."""
        if isinstance(self.part, Varied):
            yield from (f"{self.name}.{name}" for name, _ in self._open())
        for node in self.inner:
            yield from node.options()

    def path_to(self, step: type[Step], option: str) -> dict[str, Any] | None:
        """Return the choices that lead to an open option of a step, with None for the option itself, or None."""
        if isinstance(self.part, Varied):
            is_open = self.part.step is step and option in dict(self._open())
            return {f"{self.name}.{option}": None} if is_open else None
        for place, node in enumerate(self.inner):
            path = node.path_to(step, option)
            if path is not None:
                return {self.name: True if isinstance(self.part, Maybe) else self.part.values()[place], **path}
        return None

    def words(self) -> str:
        """Return the part as text."""
        if isinstance(self.part, Varied):
            opened = [f"{name} {domain_words(value)}" for name, value in self._open()]
            return f"{self.part.step.__name__}: {', '.join(opened)}" if opened else label(self.part)
        if isinstance(self.part, Choice):
            return " or ".join(node.words() for node in self.inner)
        if isinstance(self.part, Maybe):
            head, colon, tail = self.inner[0].words().partition(":")
            return " + ".join([f"{head}?{colon}{tail}", *(node.words() for node in self.inner[1:])])
        return label(self.part)

    def _open(self) -> list[tuple[str, Domain]]:
        return [(name, value) for name, value in self.part.options if isinstance(value, Domain)]


def template(parts: Sequence[Any]) -> tuple[Node, ...]:
    """Return the nodes of a template; equal names get a number. ConfigError for anything but steps and domains."""
    used: set[str] = set()
    return tuple(_node(part, used, top=True) for part in parts)


def _node(part: Any, used: set[str], *, top: bool = False) -> Node:
    if not isinstance(part, Step | Varied | Maybe | Choice) and (top or not (part is None or isinstance(part, Recipe))):
        advice = " Whole recipes go into wb.choice(recipe, ...)." if isinstance(part, Recipe) else ""
        advice = f" Write wb.vary(wb.{part.__name__}, ...)." if isinstance(part, type) else advice
        raise ConfigError(
            f"Space: parts must be steps, vary(...), maybe(...) or choice(...), got {given(part)}.{advice}"
        )
    if not isinstance(part, Varied | Maybe | Choice):
        return Node(part, "")
    name = unique_name(f"{label(part)}?" if isinstance(part, Maybe) else label(part), used)
    used.add(name)
    inner = part.parts if isinstance(part, Maybe) else part.options if isinstance(part, Choice) else ()
    return Node(part, name, tuple(_node(one, used) for one in inner))


def make_step(picked: Picked) -> Step:
    """Return the step of a choice."""
    if isinstance(picked, Step):
        return picked
    kind, options = picked
    return _cached_step(kind.__name__, options)


@functools.lru_cache(maxsize=4096)
def _cached_step(kind: str, options: tuple[tuple[str, Any], ...]) -> Step:
    return STEP_TYPES[kind](**dict(options))


def plain(part: Any) -> Any:
    """Return a part as JSON-ready values; equal parts give equal values."""
    if isinstance(part, Between):
        return {"between": [part.low, part.high, part.step, part.log]}
    if isinstance(part, Choice):
        return {"choice": [plain(option) for option in part.options]}
    if isinstance(part, Maybe):
        return {"maybe": [plain(one) for one in part.parts]}
    if isinstance(part, Varied):
        return {"vary": part.step.__name__, "options": {name: plain(value) for name, value in part.options}}
    if isinstance(part, Recipe):
        return part.to_dict()
    return step_to_dict(part) if isinstance(part, Step) else part


def domain_words(value: Any) -> str:
    """Return the domain of an option as text."""
    if isinstance(value, Between):
        return f"{value.low:g} to {value.high:g}"
    return ", ".join(map(str, value.values())) if isinstance(value, Choice) else str(value)
