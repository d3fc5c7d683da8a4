"""Recipe: ordered steps with a seed, a JSON form and a stable id; check of the order, and sweeps of options."""

from __future__ import annotations

import itertools
import json
import reprlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from workbench.compress.steps import STEP_TYPES, Distill, Prune, PruneDepth, Recover, Step, step_from_dict, step_to_dict
from workbench.core.checks import given
from workbench.core.config import canonical_json, short_id
from workbench.core.errors import RecipeError, unknown_name
from workbench.core.lazy import call_late
from workbench.core.untrusted import require_line

if TYPE_CHECKING:
    from workbench.compress.variant import Variant
    from workbench.tasks.task import Task


class Recipe:
    """Describe how to compress a model: steps in order. Without steps it is the float model itself.

    Parameters
    ----------
    *steps : Prune, PruneDepth, Distill, Recover, Factorize, Sparsify or Quantize
        An order that cannot work raises :class:`RecipeError` with the reason.
    seed : int
        Seed of every random choice. The same seed gives the same variant on the same machine, unless a step is
        cut by ``max_seconds``.
    name : str, optional
        Label in tables and charts; not part of the id.

    Examples
    --------
    >>> recipe = Recipe(Prune(ratio=0.5), Distill(epochs=3), Quantize())
    >>> recipe.label
    'prune 0.5 + distill + int8'
    >>> Recipe.from_json(recipe.to_json()) == recipe
    True
    """

    def __init__(self, *steps: Step, seed: int = 0, name: str | None = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise RecipeError(f"Recipe seed must be an integer from 0 to 2**31 - 1, got {seed!r}.")
        if name is not None:
            require_line("Recipe name", name, error=RecipeError)
        check_order(steps)
        self.steps = tuple(steps)
        self.seed = seed
        self.name = name

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__:
            raise AttributeError(f"A Recipe cannot be changed (tried to set {key!r}). Make a new one.")
        super().__setattr__(key, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and (self.steps, self.seed) == (other.steps, other.seed)

    def __hash__(self) -> int:
        return hash((self.steps, self.seed))

    def __repr__(self) -> str:
        extra = [f"seed={self.seed}"] if self.seed else []
        extra += [f"name={self.name!r}"] if self.name else []
        parts = ", ".join([*map(_describe, self.steps), *extra])
        return f"Recipe({self.label!r}: {parts})" if parts else f"Recipe({self.label!r})"

    @property
    def label(self) -> str:
        """Labels of the steps: ``"prune 0.5 + distill + int8"``; ``"float"`` without steps."""
        return " + ".join(step.label for step in self.steps) or "float"

    @property
    def technique(self) -> str:
        """Key of color and marker in charts: float, one of the techniques, or chain."""
        kinds = {type(step) for step in self.steps}
        compressing = kinds - {Distill, Recover}
        if not kinds:
            return "float"
        if len(compressing) > 1 or (Distill in kinds and compressing - {Prune, PruneDepth}):
            return "chain"
        if Distill in kinds:
            return "distill"
        kind = compressing.pop()
        return "depth" if kind is PruneDepth else kind.__name__.lower()

    @property
    def student(self) -> str | None:
        """Reference of the function that builds the student; None if the steps start from the task's model."""
        return next((step.student for step in self.steps if isinstance(step, Distill) and step.student), None)

    @property
    def functions(self) -> tuple[str, ...]:
        """References of functions that :meth:`apply` calls: the student, and predicates of include and exclude."""
        patterns = (
            pattern
            for step in self.steps
            for option in ("include", "exclude")
            for pattern in getattr(step, option, ())
            if ":" in pattern
        )
        return tuple(dict.fromkeys((*filter(None, (self.student,)), *patterns)))

    @cached_property
    def recipe_id(self) -> str:
        """Hash (12 hex digits) of the seed and the steps with all their options, without the name."""
        return short_id({"steps": [step_to_dict(step) for step in self.steps], "seed": self.seed})

    def prefixes(self) -> tuple[Recipe, ...]:
        """Return the recipes of the first step, the first two steps, and so on up to the whole recipe."""
        return tuple(Recipe(*self.steps[:n], seed=self.seed) for n in range(1, len(self.steps) + 1))

    def to_dict(self) -> dict[str, Any]:
        """Return steps, seed and name as JSON-ready values."""
        return {"steps": [step_to_dict(step) for step in self.steps], "seed": self.seed, "name": self.name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from the output of :meth:`to_dict`."""
        if not isinstance(values, Mapping):
            raise RecipeError(f"A recipe must be an object with 'steps', got {given(values)}.")
        for key in values:
            if key not in ("steps", "seed", "name"):
                raise RecipeError(unknown_name("part of a recipe", key, ("steps", "seed", "name")))
        steps = values.get("steps", ())
        if not isinstance(steps, list | tuple) or not all(isinstance(step, Mapping) for step in steps):
            raise RecipeError(f"A recipe's steps must be a list of objects such as {{'step': 'Prune'}}, got {steps!r}.")
        return cls(*map(step_from_dict, steps), seed=values.get("seed", 0), name=values.get("name"))

    def to_json(self) -> str:
        """Return canonical JSON, all defaults included."""
        return canonical_json(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Build a recipe from JSON; an error suggests the nearest valid name."""
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise RecipeError(f"Not JSON: {error}. Give the output of Recipe.to_json().") from error
        return cls.from_dict(values)

    def apply(self, task: Task | str, **options: Any) -> Variant:
        """Apply the steps to a copy of the task's model; see :func:`workbench.apply` for the options."""
        return cast("Variant", call_late("Recipe.apply", self, task, **options))


def _describe(step: Step) -> str:
    """Return a step with its non-default options, long values cut."""
    changed = (f"{name}={reprlib.repr(value)}" for name, value in step.changed().items())
    return f"{type(step).__name__}({', '.join(changed)})"


def check_order(steps: Sequence[Step]) -> None:
    """Raise :class:`RecipeError` with the reason if the steps cannot work in this order.

    Examples
    --------
    >>> from workbench.compress.steps import Prune, Quantize
    >>> check_order([Prune(), Quantize()])
    """
    for index, step in enumerate(steps):
        if type(step) not in STEP_TYPES.values():
            raise RecipeError(
                f"Step {index + 1} is {step!r} ({type(step).__name__}), not a step. Allowed: {', '.join(STEP_TYPES)}."
            )
        before = [type(s).__name__ for s in steps[:index]]
        reason = _broken_rule(type(step), before) or step.placement_error(before)
        if reason:
            order = " -> ".join(type(s).__name__ for s in steps)
            raise RecipeError(f"{order}: step {index + 1} ({type(step).__name__}) cannot stand here. {reason}")


def _broken_rule(step: type[Step], before: Sequence[str]) -> str | None:
    """Return why a step cannot come after the named ones, by the rule of the earliest; None if it can."""
    for name in before:
        if name in step.not_after:
            return step.not_after[name]
    if before and before[-1] in step.not_right_after:
        return step.not_right_after[before[-1]]
    if step.needs and not set(step.needs) & set(before):
        return step.needs_why
    return None


def sweep(step: type[Step], *then: Step, seed: int = 0, **options: Any) -> list[Recipe]:
    """Return a recipe for each combination of the options that are lists.

    Parameters
    ----------
    step : type
        The first step of the recipes, such as :class:`Prune`.
    *then : Step
        The steps after it, equal in all recipes.
    seed : int
        Seed of the recipes.
    **options
        Options of ``step``: a list is swept, any other value is fixed. The recipes are named by the swept ones.

    Raises
    ------
    RecipeError
        If no option is a list, or a list is empty.
    ConfigError
        If an option is unknown or out of its bounds.

    Examples
    --------
    >>> from workbench.compress import Prune, Recover
    >>> [recipe.name for recipe in sweep(Prune, Recover(epochs=3), ratio=[0.1, 0.3])]
    ['prune ratio=0.1 + recover', 'prune ratio=0.3 + recover']
    """
    swept = {name: values for name, values in options.items() if isinstance(values, list)}
    if not swept or not all(swept.values()):
        raise RecipeError("sweep needs an option with a list of values, such as ratio=[0.1, 0.3, 0.5].")
    recipes = []
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, values, strict=True))
        words = ", ".join(f"{name}={value}" for name, value in chosen.items())
        labels = [f"{step.__name__.lower()} {words}", *(each.label for each in then)]
        recipes.append(Recipe(step(**{**options, **chosen}), *then, seed=seed, name=" + ".join(labels)))
    return recipes
