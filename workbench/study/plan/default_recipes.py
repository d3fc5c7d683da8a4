"""The recipes that a study tries unless told: every technique once, and chains; trainings share the budget."""

from __future__ import annotations

from typing import TypeVar

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Factorize, Prune, Quantize, Recover
from workbench.study.config import BUDGET_S

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
