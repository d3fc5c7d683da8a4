"""What is of a wrong type or unknown is said in one sentence before work starts, wherever it is given."""

from __future__ import annotations

import pytest
from paths import SUPPORT

import workbench as wb
from workbench.core.errors import ArtifactError, ConfigError, TaskError, WorkbenchError

TINY = f"{SUPPORT / 'tiny.py'}:tiny"
RECIPE = wb.Recipe(wb.Prune(0.5, round_to=1))


@pytest.fixture(scope="module")
def task():
    """Return a task whose model is small."""
    return wb.load_task(TINY)


@pytest.fixture(scope="module")
def variant(task):
    """Return that model, cut."""
    return RECIPE.apply(task)


def test_a_recipe_is_applied_to_the_task_that_a_name_stands_for(task, variant):
    found = RECIPE.apply(TINY)
    assert found.task.fingerprint == task.fingerprint
    assert (found.params, found.quality) == (variant.params, variant.quality)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (3, TaskError, ["3 (int)", "'digits'"]),
        (None, TaskError, ["None", "'digits'"]),
        ("digitz", TaskError, ["'digitz'", "Did you mean 'digits'"]),
    ],
)
def test_what_is_no_task_is_said_everywhere(variant, tmp_path, wrong, error, words):
    for call in (
        lambda: RECIPE.apply(wrong),
        lambda: wb.PrefixCache(wrong),
        lambda: wb.debug_accuracy(wrong, variant),
        lambda: wb.load_task(wrong),
    ):
        with pytest.raises(error) as caught:
            call()
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"progress": 3}, "progress must be a function"),
        ({"cost": 0.5}, "cost must be a function"),
        ({"cache": "folder"}, "wb.PrefixCache"),
        ({"checkpoints": 3}, "checkpoints must be a folder"),
    ],
)
def test_options_of_apply_of_a_wrong_type(task, options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.apply(task, **options)


def test_a_prefix_cache_takes_a_task_by_name_and_only_variants(task, variant, tmp_path):
    cache = wb.PrefixCache(TINY, tmp_path)
    cache[variant.recipe.recipe_id] = variant
    assert list(cache) == [variant.recipe.recipe_id]
    assert wb.PrefixCache(task, tmp_path)[variant.recipe.recipe_id].params == variant.params
    for key, value in (("id", 3), (3, variant)):
        with pytest.raises(ConfigError, match="maps recipe ids to variants"):
            cache[key] = value


@pytest.mark.parametrize("limit", [-1, 1.5, "2", True])
def test_the_limit_of_a_prefix_cache(task, limit):
    with pytest.raises(ConfigError, match=r"at least 0, or None"):
        wb.PrefixCache(task, limit_mib=limit)


def test_a_limit_of_zero_keeps_nothing_on_disk(task, variant, tmp_path):
    cache = wb.PrefixCache(task, tmp_path, limit_mib=0)
    cache["one"] = variant
    assert cache["one"] is variant
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_prefix_cache(task):
    with pytest.raises(ConfigError, match=r"folder must be a folder as text or Path, got 3 \(int\)"):
        wb.PrefixCache(task, 3)


def test_latency_cost_takes_a_recipe():
    with pytest.raises(ConfigError, match=r"must be a Recipe, got Prune.*wb.latency_cost\(wb.Recipe\(step\)\)"):
        wb.latency_cost(wb.Prune(of="latency"))
    with pytest.raises(ConfigError, match="must be a Recipe, got None"):
        wb.latency_cost(None)
    with pytest.raises(ConfigError, match=r"threads must be an integer of at least 1, got 'two' \(str\)"):
        wb.latency_cost(wb.Recipe(wb.Prune(of="latency")), threads="two")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variant": RECIPE}, "variant must be a Variant, got Recipe"),
        ({"variant": "folder"}, "wb.load_variant"),
        ({"reference": "float"}, "reference must be a Variant"),
        ({"samples": "many"}, "samples must be an integer"),
        ({"samples": 1.5}, "samples must be an integer"),
        ({"backend": 3}, "backend must be str"),
        ({"split": ["train"]}, "Unknown split"),
        ({"metrics": [len]}, "metrics must be a dict"),
        ({"metrics": {"one": 3}}, "the metric 'one' must be a function"),
        ({"progress": "loud"}, "progress must be a function"),
    ],
)
def test_debug_accuracy_says_what_is_wrong_before_it_runs(task, variant, monkeypatch, changes, words):
    monkeypatch.setattr(wb.Recipe, "apply", lambda *_, **__: pytest.fail("work was started"))
    arguments = {"variant": variant} | changes
    with pytest.raises(WorkbenchError, match=words):
        wb.debug_accuracy(task, **arguments)


def test_load_variant_says_what_names_no_task_or_folder(variant, tmp_path):
    variant.save(tmp_path / "kept")
    with pytest.raises(TaskError, match=r"must be a Task or name one, got 3 \(int\)"):
        wb.load_variant(tmp_path / "kept", task=3)
    with pytest.raises(TaskError, match=r"must be a Task or name one, got Variant\("):
        wb.load_variant(tmp_path / "kept", task=variant)
    with pytest.raises(ArtifactError, match=r"got 3 \(int\)"):
        wb.load_variant(3)


@pytest.mark.parametrize("reference", ["nocolon", "file.py:", ":function", "file.py:not a name", ""])
def test_a_teacher_or_student_that_names_no_function(reference):
    for role in ("teacher", "student"):
        with pytest.raises(ConfigError, match=f"Distill.{role} must be 'path/to/file.py:function'"):
            wb.Distill(**{role: reference})


@pytest.mark.parametrize("batch", [0, -1, "x", 1.5, True])
def test_the_batch_of_an_artifact(variant, tmp_path, batch):
    with pytest.raises(ConfigError, match=r"Variant.save: batch must be an integer of at least 1"):
        variant.save(tmp_path / "new", batch=batch)
    assert not (tmp_path / "new").exists()


def test_the_folder_of_an_artifact(variant):
    with pytest.raises(ConfigError, match=r"Variant.save: folder must be a folder as text or Path, got 3 \(int\)"):
        variant.save(3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": 3}, r"Study: name must be one line .*, got 3 \(int\)"),
        ({"name": " "}, "Study: name must be one line"),
        ({"prefix_cache": "no"}, "Study: prefix_cache must be True or False"),
    ],
)
def test_the_options_of_a_study(task, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        wb.Study(task, storage=f"sqlite:///{tmp_path}/s.db", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_repr_is_one_short_line(task, variant, tmp_path):
    artifact = variant.save(tmp_path / "kept")
    table = wb.sensitivity(task, "prune", settings=(0.5,), layers=("hidden",), measure="sqnr_db")
    for thing in (task, RECIPE, variant, artifact, table):
        assert "\n" not in repr(thing) and len(repr(thing)) < 120 + len(str(tmp_path)), repr(thing)
    assert repr(table) == "Sensitivity(prune of task 'tiny', sqnr_db: 1 layers at 0.5)"


def test_a_recipe_shows_its_label_and_what_is_not_the_default():
    recipe = wb.Recipe(wb.Prune(0.3, exclude=("stem",)), wb.Distill(epochs=5), wb.Quantize(), seed=4, name="mine")
    options = "Prune(ratio=0.3, exclude=('stem',)), Distill(epochs=5.0), Quantize()"
    assert repr(recipe) == f"Recipe('prune 0.3 + distill + int8': {options}, seed=4, name='mine')"
    assert repr(wb.Recipe()) == "Recipe('float')"
    many = wb.Recipe(wb.Prune(ratios=tuple(f"blocks.{i}.conv=0.5" for i in range(90))))
    assert len(repr(many)) < 300 and "..." in repr(many)
