"""The plan: keys, order, the baseline that is always there, and refusals before work starts."""

import pytest

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Distill, Prune, Quantize
from workbench.core.errors import StudyError
from workbench.study.plan.recipes import default_recipes
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import make_plan, planned

PRUNE = Recipe(Prune(0.5), name="prune")
QUANTIZE = Recipe(Quantize(), name="quantize")


def plan(recipes=(PRUNE,), backends=("torch-eager", "openvino"), sizes=(1, 8, 32), task="f" * 12, threads=2):
    return make_plan(task, recipes, backends, sizes, threads=threads)


def test_the_primary_batch_size_comes_first_for_all_recipes():
    made = plan(sizes=(1, 32, 8))
    assert [point.batch for point in made.points] == [32, 8, 1]
    order = [(t.batch_size, t.name) for t in made.trials]
    assert order[:4] == [(32, "float"), (32, "float"), (32, "prune"), (32, "prune")]
    assert [batch for batch, _ in order] == [32] * 4 + [8] * 4 + [1] * 4


def test_without_32_the_largest_is_the_primary():
    assert plan(sizes=(4, 64, 16)).primary.batch == 64


def test_the_baseline_is_added_when_neither_float_nor_eager_was_asked_for():
    made = plan(backends=("openvino",), sizes=(8,))
    assert [(t.name, t.backend, t.baseline) for t in made.trials] == [
        ("float", "torch-eager", True),
        ("float", "openvino", False),
        ("prune", "openvino", False),
    ]
    assert made.baseline(OperatingPoint(8)).name == "float"


def test_a_recipe_given_twice_is_done_once():
    assert len(plan(recipes=(PRUNE, PRUNE, Recipe(), Recipe(seed=3))).recipes) == 2


@pytest.mark.parametrize(
    "change", [{"task": "e" * 12}, {"threads": 1}, {"recipes": (Recipe(Prune(0.4), name="prune"),)}]
)
def test_keys_tell_trials_apart_by_everything_that_matters(change):
    key = {t.key for t in plan().trials}
    other = {t.key for t in plan(**change).trials}
    assert len(key) == len(plan().trials)
    assert not key & other if "recipes" not in change else len(key & other) == 6  # float's trials are the same


def test_names_are_not_part_of_a_key():
    renamed = plan(recipes=(Recipe(Prune(0.5), name="other"),))
    assert [t.key for t in renamed.trials] == [t.key for t in plan().trials]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipes": ("prune",)}, "Recipe objects"),
        ({"recipes": (PRUNE, Recipe(Prune(0.4), name="prune"))}, "both called 'prune'"),
    ],
)
def test_what_cannot_be_planned_is_said(options, words):
    with pytest.raises(StudyError, match=words):
        plan(**options)


def test_the_default_recipes_hold_every_technique_and_share_the_chain_s_training():
    recipes = {r.name: r for r in default_recipes(200)}
    assert {r.technique for r in recipes.values()} == {
        "float",
        "prune",
        "distill",
        "factorize",
        "quantize",
        "chain",
    }
    assert recipes["chain"].steps[:2] == recipes["distill"].steps
    assert isinstance(recipes["chain"].steps[-1], Quantize) and recipes["chain"].steps[-1].qat_epochs > 0
    assert isinstance(recipes["distill"].steps[-1], Distill)


@pytest.mark.parametrize("budget", [60, 200, 600, 1200, None])
def test_default_trainings_leave_room_for_exports_and_timings(budget):
    recipes = default_recipes(budget)
    unique = {prefix.recipe_id: prefix.steps[-1] for r in recipes for prefix in r.prefixes()}
    total = sum(getattr(step, "max_seconds", None) or 0.0 for step in unique.values())
    assert 0 < total <= (0.61 if (budget or 1200) >= 600 else 0.4) * (budget or 1200)


def test_at_other_batch_sizes_the_baseline_and_the_best_come_first_and_the_front_before_the_rest():
    front = Recipe(Prune(0.3), name="front")
    planned = plan(recipes=(Recipe(), PRUNE, front, QUANTIZE), sizes=(1, 8, 32))
    best, all_of_it = {QUANTIZE.recipe_id}, {QUANTIZE.recipe_id, front.recipe_id}
    rest = planned.rest(planned.recipes, tiers=(best, all_of_it))
    names = [f"{recipe.name or recipe.label} {point.words}" for recipe, point in rest]
    assert names == ["float 8", "quantize 8", "float 1", "quantize 1", "front 8", "front 1", "prune 8", "prune 1"]
    assert planned.rest((PRUNE,), tiers=((), ())) == [(PRUNE, OperatingPoint(8)), (PRUNE, OperatingPoint(1))]


def test_more_time_brings_more_recipes():
    assert len(default_recipes(1200)) > len(default_recipes(200))


def test_options_of_the_engine_make_another_trial_of_the_same_artifact():
    def one(*options):
        return planned("f" * 12, Recipe(), "torch-eager", OperatingPoint(8), 2, options)

    plain_trial, other = one(), one(("memory_format", "channels_last"))
    assert plain_trial.key != other.key and plain_trial.artifact_key == other.artifact_key
    assert plain_trial.baseline and not other.baseline
    assert other.words == "float on torch-eager (memory_format=channels_last) at batch 8"
    assert plain_trial.key == plan(recipes=(), sizes=(8,)).baseline(OperatingPoint(8)).key
