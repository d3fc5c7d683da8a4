"""Choosing steps, recipes and engines."""

from __future__ import annotations

import pytest

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Factorize, Prune, PruneDepth, Quantize, Recover, Sparsify
from workbench.core.errors import ConfigError, RecipeError
from workbench.engine.backends.base import Availability
from workbench.widgets.form import Form
from workbench.widgets.panel_job import RunSettings
from workbench.widgets.pickers import EnginePicker, RecipeList, StepPicker


def test_ticked_steps_make_a_recipe_in_an_order_that_works() -> None:
    made: list[Recipe] = []
    picker = StepPicker(made.append)
    assert picker.add.disabled
    for kind in (Quantize, Distill, Prune):
        picker.ticks[kind].value = True
    picker.forms[Prune].control("ratio").value = 0.3
    assert picker.preview.value == "Will add: prune 0.3 + distill + int8"
    picker.name.value = " mine "
    picker.add_recipe()
    assert made == [Recipe(Prune(ratio=0.3), Distill(), Quantize())]
    assert made[0].name == "mine"
    assert not any(tick.value for tick in picker.ticks.values())


def test_every_pair_of_steps_that_may_follow_each_other_can_be_made() -> None:
    picker = StepPicker(lambda _: None)
    for kind in (PruneDepth, Prune, Factorize, Sparsify, Recover, Distill, Quantize):
        picker.ticks[kind].value = True
    assert not picker.add.disabled


def test_a_step_alone_that_needs_another_says_why() -> None:
    picker = StepPicker(lambda _: None)
    picker.ticks[Recover].value = True
    assert picker.add.disabled
    assert "put one of them before it" in picker.preview.value


def test_a_wrong_option_stops_the_recipe() -> None:
    picker = StepPicker(lambda _: None)
    picker.ticks[Prune].value = True
    picker.forms[Prune].control("ratio").value = 1.5
    assert picker.add.disabled
    assert picker.preview.value == "Fix the highlighted options."
    with pytest.raises(ConfigError):
        picker.recipe()


def test_the_form_of_a_step_shows_only_while_it_is_ticked() -> None:
    picker = StepPicker(lambda _: None)
    assert picker.forms[Prune].view.layout.display == "none"
    picker.ticks[Prune].value = True
    assert picker.forms[Prune].view.layout.display == ""


def test_presets_are_ticked_and_new_recipes_join_them(fakes) -> None:
    listed = RecipeList(fakes.RECIPES)
    listed.add(Recipe(Factorize(), name="thin"))
    listed.tick("distill", False)
    assert [r.name for r in listed.chosen] == ["float", "chain", "thin"]
    assert len(listed.view.children) == 4


def test_adding_a_recipe_again_ticks_it(fakes) -> None:
    listed = RecipeList(fakes.RECIPES)
    listed.tick("chain", False)
    listed.add(Recipe(*fakes.RECIPES[2].steps))
    assert len(listed.chosen) == 3


def test_two_recipes_cannot_have_one_name(fakes) -> None:
    listed = RecipeList(fakes.RECIPES)
    with pytest.raises(RecipeError, match="'chain' is taken"):
        listed.add(Recipe(Prune(ratio=0.2), name="chain"))


def test_new_presets_keep_ticks_and_own_recipes(fakes) -> None:
    listed = RecipeList(fakes.RECIPES)
    listed.tick("distill", False)
    listed.add(Recipe(Factorize(), name="thin"))
    listed.set_presets([Recipe(*r.steps, seed=1, name=r.name) for r in fakes.RECIPES])
    assert [(r.name, r.seed) for r in listed.chosen] == [("float", 1), ("chain", 1), ("thin", 0)]


def test_an_unknown_name_is_told_what_there_is(fakes) -> None:
    with pytest.raises(RecipeError, match="float, distill, chain"):
        RecipeList(fakes.RECIPES).tick("prune", True)


def test_an_engine_that_is_missing_is_off_and_says_why() -> None:
    picker = EnginePicker(
        [
            Availability("torch-eager", True, "2.13.0"),
            Availability("openvino", False, None, "openvino is not installed", "pip install openvino"),
        ]
    )
    assert picker.chosen == ["torch-eager"]
    assert picker.boxes["openvino"].disabled
    assert "Not available: openvino is not installed. pip install openvino." in picker.view.children[-1].value


@pytest.mark.parametrize("sizes", ["", "0", "8, 8", "1, x"])
def test_batch_sizes_that_cannot_be_are_said(sizes: str) -> None:
    form = Form(RunSettings)
    form.control("batch_sizes").value = sizes
    assert "batch_sizes" in str(form.error)


def test_the_default_plan_is_chosen_until_a_recipe_is(fakes) -> None:
    listed = RecipeList(fakes.RECIPES)
    assert listed.automatic.value and listed.plan is None
    listed.tick("distill", False)
    assert not listed.automatic.value and [r.name for r in listed.plan] == ["float", "chain"]
    listed.automatic.value = True
    assert listed.plan is None
    listed.add(Recipe(Factorize(), name="thin"))
    assert [r.name for r in listed.plan] == ["float", "chain", "thin"]
