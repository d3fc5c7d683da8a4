"""A recipe for each value of an option."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.core.errors import ConfigError, RecipeError


def test_lists_are_swept_and_other_values_are_fixed():
    recipes = wb.sweep(wb.Prune, wb.Recover(epochs=2), ratio=[0.1, 0.3], of="macs", seed=3)
    assert recipes == [wb.Recipe(wb.Prune(ratio=r, of="macs"), wb.Recover(epochs=2), seed=3) for r in (0.1, 0.3)]
    assert [recipe.name for recipe in recipes] == ["prune ratio=0.1 + recover", "prune ratio=0.3 + recover"]


def test_several_lists_are_combined_and_every_name_is_different():
    recipes = wb.sweep(wb.Prune, ratio=[0.1, 0.3], of=["channels", "macs"])
    assert len({recipe.recipe_id for recipe in recipes}) == len({recipe.name for recipe in recipes}) == 4


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, RecipeError, "list of values"),
        ({"ratio": []}, RecipeError, "list of values"),
        ({"ratio": 0.1}, RecipeError, "list of values"),
        ({"ratio": [0.1, 1.5]}, ConfigError, "ratio must be"),
        ({"rate": [0.1]}, ConfigError, "Did you mean 'ratio'"),
    ],
)
def test_what_cannot_be_swept_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        wb.sweep(wb.Prune, **options)
