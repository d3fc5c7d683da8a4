"""The recipes that a study tries unless told: every technique once, and chains; trainings share the budget."""

from __future__ import annotations

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Factorize, Prune, Quantize, Recover

DEFAULT_BUDGET_S = 1200.0
_LONG_S = 600.0


def default_recipes(budget_s: float | None = None) -> list[Recipe]:
    """Return float, prune, distill, factorize, quantize and chains, with training lengths that fit ``budget_s``.

    The chain begins with the steps of the recipe ``distill``, so that this training is done once for both. With
    600 s or more, quantization-aware training alone and a harder chain are added.

    Examples
    --------
    >>> [recipe.name for recipe in default_recipes(200)]
    ['float', 'quantize', 'prune', 'distill', 'chain', 'factorize', 'chain-gentle']
    """
    budget = DEFAULT_BUDGET_S if budget_s is None else budget_s

    def seconds(share: float) -> float:
        return round(share * budget, 1)

    hard = (Prune(ratio=0.5), Distill(epochs=_epochs(12, budget), max_seconds=seconds(0.11)))
    gentle = (Prune(ratio=0.3), Distill(epochs=_epochs(10, budget), max_seconds=seconds(0.08)))
    trained = Quantize(qat_epochs=_epochs(3, budget), max_seconds=seconds(0.04))
    recipes = [
        Recipe(name="float"),
        Recipe(Quantize(), name="quantize"),
        Recipe(Prune(ratio=0.5), Recover(epochs=_epochs(6, budget), max_seconds=seconds(0.04)), name="prune"),
        Recipe(*hard, name="distill"),
        Recipe(*hard, trained, name="chain"),
        Recipe(Factorize(), Recover(epochs=_epochs(4, budget), max_seconds=seconds(0.04)), name="factorize"),
        Recipe(*gentle, Quantize(), name="chain-gentle"),
    ]
    if budget >= _LONG_S:
        recipes.append(Recipe(trained, name="quantize-qat"))
    return recipes


def _epochs(most: float, budget: float) -> float:
    """More time allows more passes; the limit in seconds anneals the training to what there is."""
    return most if budget < _LONG_S else 2 * most
