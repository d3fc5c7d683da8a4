"""Sweep the options of a step: one recipe for each value."""

from __future__ import annotations

import itertools
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step
from workbench.core.errors import RecipeError


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
