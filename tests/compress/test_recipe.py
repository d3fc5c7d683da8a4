"""Recipes: ids, JSON, labels, and what apply promises."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from compress_models import images, seeded, task_of
from torch import nn

from workbench.compress import Distill, Factorize, Prune, Quantize, Recipe, Recover, Variant, sweep
from workbench.core.errors import Cancelled, ConfigError, CoverageError, RecipeError, TaskError


def digest(module):
    """Hash all weights and buffers."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(name.encode())
        total.update(value.contiguous().numpy().tobytes())
    return total.hexdigest()


def test_ids_are_stable_and_do_not_hang_on_the_name():
    recipe = Recipe(Prune(0.5), Distill(), Quantize(qat_epochs=2))
    assert recipe.recipe_id == Recipe(Prune(), Distill(), Quantize(qat_epochs=2.0), name="mine").recipe_id
    assert len(recipe.recipe_id) == 12
    others = {Recipe(Prune(0.5)).recipe_id, Recipe(Prune(0.5), seed=1).recipe_id, Recipe().recipe_id, recipe.recipe_id}
    assert len(others) == 4


def test_an_id_is_the_same_in_another_process():
    code = "from workbench.compress.recipe import Recipe; from workbench.compress.steps import *; import sys;"
    code += "print(Recipe(Prune(0.5), Quantize()).recipe_id); assert 'torch' not in sys.modules"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == Recipe(Prune(0.5), Quantize()).recipe_id


def test_json_round_trip_keeps_everything():
    recipe = Recipe(Prune(0.3, exclude=("stem",)), Recover(), Factorize(), Distill(), Quantize(), seed=7, name="all")
    back = Recipe.from_json(recipe.to_json())
    assert back == recipe
    assert (back.name, back.seed, back.recipe_id) == ("all", 7, recipe.recipe_id)
    assert hash(back) == hash(recipe)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Not JSON"),
        ("[]", "an object with 'steps'"),
        ('{"stepz": []}', "Did you mean 'steps'"),
        ('{"steps": "Prune"}', "must be a list"),
        ('{"steps": [], "seed": -1}', "seed"),
    ],
)
def test_json_that_is_no_recipe_is_answered(text, words):
    with pytest.raises(RecipeError, match=words):
        Recipe.from_json(text)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(AttributeError, match="cannot be changed"):
        Recipe(Prune()).seed = 3


@pytest.mark.parametrize(
    ("steps", "technique"),
    [
        ((), "float"),
        ((Prune(),), "prune"),
        ((Prune(), Recover()), "prune"),
        ((Prune(), Distill()), "distill"),
        ((Distill(),), "distill"),
        ((Factorize(), Recover()), "factorize"),
        ((Quantize(qat_epochs=1),), "quantize"),
        ((Prune(), Distill(), Quantize()), "chain"),
        ((Factorize(), Distill()), "chain"),
        ((Prune(), Factorize()), "chain"),
    ],
)
def test_the_technique_is_one_word(steps, technique):
    assert Recipe(*steps).technique == technique


def test_label_and_prefixes():
    recipe = Recipe(Prune(0.5), Distill(), Quantize(), seed=4)
    assert recipe.label == "prune 0.5 + distill + int8"
    assert [len(p.steps) for p in recipe.prefixes()] == [1, 2, 3]
    assert recipe.prefixes()[-1] == recipe
    assert Recipe().label == "float"


@pytest.mark.slow
def test_a_chain_reports_every_step_and_leaves_the_task_alone(tiny_task):
    own = tiny_task.model()
    before = digest(own)
    events = []
    recipe = Recipe(Prune(0.5), Distill(epochs=8), Quantize(qat_epochs=1), name="chain")
    variant = recipe.apply(tiny_task, progress=events.append)
    assert digest(own) == before
    assert digest(tiny_task.model()) == before
    assert [r.label for r in variant.reports] == ["prune 0.5", "distill", "int8 qat"]
    pruned, distilled, quantized = variant.reports
    assert pruned.params_after < pruned.params_before / 2
    assert pruned.macs_after < pruned.macs_before / 2
    assert distilled.quality_before == pruned.quality_after
    assert distilled.quality_after > pruned.quality_after
    assert distilled.epochs_done == pytest.approx(8)
    assert quantized.params_after == quantized.params_before
    assert variant.recipe.name == "chain"
    assert variant.quantized
    assert variant.quality == quantized.quality_after >= Variant.original(tiny_task).quality - 0.04
    stages = {event.stage for event in events}
    assert {"prune 0.5", "prune", "distill", "calibrate", "quantize"} <= stages
    assert any("loss" in event.values and "epoch" in event.values for event in events)
    assert all(event.fraction is None or 0 <= event.fraction <= 1 for event in events)


def test_evaluation_is_never_touched(tiny_task, monkeypatch):
    def refuse(self):
        raise AssertionError("the evaluation split was read")

    tiny_task.check()  # looks for training samples in evaluation, before any work
    monkeypatch.setattr(type(tiny_task), "evaluation", property(refuse))
    monkeypatch.setitem(tiny_task._splits, "evaluation", None)
    recipe = Recipe(
        Prune(0.5), Recover(epochs=0.3), Factorize(ratio=0.3), Distill(epochs=0.3), Quantize(qat_epochs=0.3)
    )
    recipe.apply(tiny_task)


def test_the_same_seed_gives_the_same_variant_and_no_random_state_leaks(tiny_task):
    recipe = Recipe(Prune(0.5, importance="random"), Distill(epochs=1), seed=3)
    state = torch.random.get_rng_state()
    first, second = recipe.apply(tiny_task), recipe.apply(tiny_task)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert digest(first.module) == digest(second.module)
    torch.manual_seed(99)
    assert digest(recipe.apply(tiny_task).module) == digest(first.module)
    other = Recipe(*recipe.steps, seed=4).apply(tiny_task)
    assert digest(other.module) != digest(first.module)


@pytest.mark.slow
def test_shared_beginnings_come_from_the_cache_and_stay_whole(tiny_task):
    cache = {}
    Recipe(Prune(0.5), Distill(epochs=0.5)).apply(tiny_task, cache=cache)
    assert len(cache) == 2
    kept = digest(cache[Recipe(Prune(0.5)).recipe_id].module)
    events = []
    recipe = Recipe(Prune(0.5), Recover(epochs=0.5))
    cached = recipe.apply(tiny_task, cache=cache, progress=events.append)
    assert "prune" not in {event.stage for event in events}
    assert digest(cache[Recipe(Prune(0.5)).recipe_id].module) == kept
    assert digest(cached.module) == digest(recipe.apply(tiny_task).module)
    assert len(cached.reports) == 2
    Recipe(Prune(0.5), Quantize()).apply(tiny_task, cache=cache)
    assert not any(variant.quantized for variant in cache.values())


def test_cancel_in_the_callback_stops_the_work(tiny_task):
    before = digest(tiny_task.model())
    cache = {}

    def cancel(event):
        if "loss" in event.values:
            raise Cancelled("asked for")

    with pytest.raises(Cancelled):
        Recipe(Prune(0.5), Distill(epochs=50)).apply(tiny_task, progress=cancel, cache=cache)
    assert digest(tiny_task.model()) == before
    assert list(cache) == [Recipe(Prune(0.5)).recipe_id]


def test_a_step_that_touches_nothing_is_an_error_unless_allowed():
    x, y = images()
    task = task_of(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), x, y)
    with pytest.raises(CoverageError, match=r"touched no layer.*outputs of the model.*allow_untouched"):
        Recipe(Prune(0.5)).apply(task)
    report = Recipe(Prune(0.5, allow_untouched=True)).apply(task).reports[0]
    assert report.touched == 0
    assert "changed no layer" in report.notes[-1]


def test_what_is_wrong_with_the_task_is_said_before_work_starts():
    x, y = images()
    broken = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))

    def build():
        module = broken()
        module[1].weight.data[0, 0] = float("nan")
        return module

    events = []
    with pytest.raises(TaskError, match=r"1\.weight"):
        Recipe(Quantize()).apply(task_of(build, x, y), progress=events.append)
    assert not events


def test_reports_are_ready_for_json(tiny_task):
    import json

    report = Recipe(Prune(0.5)).apply(tiny_task).reports[0].to_dict()
    assert json.loads(json.dumps(report))["step"]["step"] == "Prune"
    assert report["layers"][0].keys() == {"name", "type", "touched", "reason"}


def test_lists_are_swept_and_other_values_are_fixed():
    recipes = sweep(Prune, Recover(epochs=2), ratio=[0.1, 0.3], of="macs", seed=3)
    assert recipes == [Recipe(Prune(ratio=r, of="macs"), Recover(epochs=2), seed=3) for r in (0.1, 0.3)]
    assert [recipe.name for recipe in recipes] == ["prune ratio=0.1 + recover", "prune ratio=0.3 + recover"]


def test_several_lists_are_combined_and_every_name_is_different():
    recipes = sweep(Prune, ratio=[0.1, 0.3], of=["channels", "macs"])
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
        sweep(Prune, **options)
