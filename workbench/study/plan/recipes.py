"""Recipes of a study: the default list, checks before any work, and the recipe of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Factorize, Prune, Quantize, Recover
from workbench.core.checks import given
from workbench.core.errors import StudyError, WorkbenchError
from workbench.study.config import BUDGET_S

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_Step = TypeVar("_Step", Distill, Recover)

_LONG_S = 600.0
# (most epochs, share of the budget). What is left goes to exports and timings: they take about as long on any budget,
# so a long one leaves more for training; distillation gains most from it (Beyer et al., arXiv 2106.05237).
_SHORT = {"hard": (12, 0.11), "gentle": (10, 0.08), "qat": (3, 0.04), "prune": (6, 0.04), "factorize": (4, 0.04)}
_LONG = {"hard": (60, 0.24), "gentle": (50, 0.18), "qat": (6, 0.05), "prune": (12, 0.04), "factorize": (8, 0.04)}


def default_recipes(budget_s: float | None = None) -> list[Recipe]:
    """Return float, prune, distill, factorize, quantize and chains, with training lengths that fit ``budget_s``.

    The chain begins with the steps of the recipe ``distill``, so that this training is done once for both. With
    600 s or more, quantization-aware training alone and a harder chain are added.

    Examples
    --------
    >>> [recipe.name for recipe in default_recipes(200)]
    ['float', 'quantize', 'prune', 'distill', 'chain', 'factorize', 'chain-gentle']
    """
    budget = BUDGET_S if budget_s is None else budget_s
    shares = _LONG if budget >= _LONG_S else _SHORT

    def within(kind: str, step: type[_Step]) -> _Step:
        epochs, share = shares[kind]
        return step(epochs=epochs, max_seconds=round(share * budget, 1))

    hard = (Prune(ratio=0.5), within("hard", Distill))
    gentle = (Prune(ratio=0.3), within("gentle", Distill))
    epochs, share = shares["qat"]
    trained = Quantize(qat_epochs=epochs, max_seconds=round(share * budget, 1))
    recipes = [
        Recipe(name="float"),
        Recipe(Quantize(), name="quantize"),
        Recipe(Prune(ratio=0.5), within("prune", Recover), name="prune"),
        Recipe(*hard, name="distill"),
        Recipe(*hard, trained, name="chain"),
        Recipe(Factorize(), within("factorize", Recover), name="factorize"),
        Recipe(*gentle, Quantize(), name="chain-gentle"),
    ]
    if budget >= _LONG_S:
        recipes.append(Recipe(trained, name="quantize-qat"))
    return recipes


def check_recipes(recipes: Sequence[Recipe], task: Task) -> None:
    """Refuse a task, an option or a measurement of latency that cannot work, before the first recipe is prepared."""
    from workbench.compress.apply import check_steps
    from workbench.measure.comparison.latency_cost import latency_cost

    for recipe in recipes:
        latency_cost(recipe)
    task.check()
    check_steps(dict.fromkeys(step for recipe in recipes for step in recipe.steps), task)


def ordered_recipes(recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """Return different recipes with the float model first; StudyError if two of them have one name."""
    for recipe in recipes:
        if not isinstance(recipe, Recipe):
            raise StudyError(f"recipes must hold Recipe objects, got {recipe!r}. Write Recipe(Prune(0.5), ...).")
    # of two floats that differ in their seed only, one is enough: a seed changes nothing without steps
    floats = [r for r in recipes if not r.steps][:1] or [Recipe(name="float")]
    ordered = tuple(dict.fromkeys([*floats, *(r for r in recipes if r.steps)]))
    named: dict[str, Recipe] = {}
    for recipe in ordered:
        name = recipe.name or recipe.label
        if name in named:
            raise StudyError(f"Two different recipes are both called {name!r}. Give each Recipe a name of its own.")
        named[name] = recipe
    return ordered


def row_recipe(row: Mapping[str, Any], *, trust: bool = False) -> Recipe:
    """Return the recipe of a row; StudyError if it is not valid, or names a function without ``trust``.

    ``trust`` allows functions to call (``Distill.student``, predicates of ``exclude``): applying the recipe runs code
    which the row names.
    """
    try:
        recipe = Recipe.from_json(row["recipe_json"])
    except (WorkbenchError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise StudyError(f"The recipe of {given(row['recipe'])} cannot be used: {error}") from error
    if recipe.functions and not trust:
        raise StudyError(
            f"The recipe of {given(row['recipe'])} calls {', '.join(map(given, recipe.functions))}: that runs code "
            "which the study names. Give trust=True (--trust) if you or people you trust wrote the study."
        )
    return recipe
