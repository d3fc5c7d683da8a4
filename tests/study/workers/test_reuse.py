"""Studies share finished beginnings through the cache, and say so; the spread over seeds changes no row."""

import json

import pytest

import workbench as wb
from workbench.artifact import PrefixCache
from workbench.core.errors import Cancelled, ConfigError, StudyError

pytestmark = pytest.mark.slow
TRAINED = (wb.Prune(ratio=0.5), wb.Recover(epochs=1))
CHAIN = wb.Recipe(*TRAINED, wb.Factorize(allow_untouched=True), name="chain")
OTHER = wb.Recipe(*TRAINED, wb.Recover(epochs=0.5, allow_untouched=True), name="other")


class Events(list):
    """Collects a run's events; the recipe steps that were really carried out are among them."""

    def steps(self):
        """Return the messages of steps, in the order they began."""
        said = [e.values["step"] for e in self if "step" in e.values]
        return [(s["stage"], s["message"]) for s in said if s["message"].startswith("step ")]


def run(task, folder, name, recipes, **options):
    events = Events()
    with wb.Study(task, storage=f"sqlite:///{folder}/{name}.db", **options) as study:
        summary = study.run(recipes, backends=["torch-eager"], batch_sizes=[2], threads=1, progress=events.append)
        assert summary.failed == 0 and summary.open == 0
        return {r["recipe"]: r for r in study.rows()}, events


@pytest.fixture(scope="module")
def twice(shared_task, tmp_path_factory):
    """Return rows and events of a study, of a second one in another database, and the folder of their cache."""
    folder = tmp_path_factory.mktemp("reuse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(folder / "cache"))
        first = run(shared_task, folder, "first", [CHAIN, OTHER])
        second = run(shared_task, folder, "second", [OTHER, CHAIN])
        yield first, second, folder


def test_the_recipes_of_a_study_share_their_beginning(twice, shared_task):
    (rows, events), _, folder = twice
    assert [stage for stage, _ in events.steps()] == ["prune 0.5", "recover", "low-rank 0.9 energy", "recover"]
    kept = set(PrefixCache(shared_task, folder / "cache" / "prefixes"))
    assert kept == {p.recipe_id for recipe in (CHAIN, OTHER) for p in recipe.prefixes()}
    assert "prepare_s" not in rows["float"]["notes"] and "prepare_s" not in rows["chain"]["notes"]
    words = rows["other"]["notes"]["prepare_s"]
    assert words.startswith("The first 2 steps (prune 0.5 + recover) came from the prefix cache")
    seconds = sum(step["seconds"] for step in rows["other"]["steps"][:2])
    assert f"{seconds:.1f} s" in words


def test_a_later_study_trains_nothing_and_every_row_says_where_its_steps_came_from(twice):
    (before, _), (rows, events), _ = twice
    assert events.steps() == []
    for name in ("chain", "other"):
        assert rows[name]["steps"] == before[name]["steps"]
        assert rows[name]["quality"] == before[name]["quality"]
        assert (rows[name]["params"], rows[name]["macs"]) == (before[name]["params"], before[name]["macs"])
        assert "The first 3 steps" in rows[name]["notes"]["prepare_s"] and rows[name]["prepare_s"] > 0
    assert "prepare_s" not in rows["float"]["notes"]


def test_switched_off_it_trains_again_with_the_same_result(twice, shared_task, monkeypatch):
    (before, _), _, folder = twice
    monkeypatch.setenv("WORKBENCH_CACHE", str(folder / "cache"))
    rows, events = run(shared_task, folder, "alone", [CHAIN], prefix_cache=False)
    assert [stage for stage, _ in events.steps()] == ["prune 0.5", "recover", "low-rank 0.9 energy"]
    assert "prepare_s" not in rows["chain"]["notes"]
    assert rows["chain"]["quality"] == before["chain"]["quality"]


def test_a_training_that_was_cut_is_said_where_it_is_reused(shared_task):
    from workbench.study.workers.prepare_main import _reused_notes

    cut = wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(epochs=1000, max_seconds=0.3))
    cache = PrefixCache(shared_task)
    assert _reused_notes(cut.apply(shared_task, cache=cache)) == {}
    words = _reused_notes(cut.apply(shared_task, cache=cache))["prepare_s"]
    assert "cut by max_seconds; Study(..., prefix_cache=False)" in words
    one = wb.Recipe(wb.Prune(ratio=0.5))
    assert "The first step (prune 0.5) came" in _reused_notes(one.apply(shared_task, cache=cache))["prepare_s"]


@pytest.fixture(scope="module")
def spread(shared_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    recipe = wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(epochs=0.5), name="prune")
    with wb.Study(shared_task, storage=f"sqlite:///{folder}/s.db") as study:
        with pytest.raises(StudyError, match="needs a recipe"):
            study.seed_variance()
        study.run([recipe], backends=["torch-eager"], batch_sizes=[2], threads=1, quality_drop=1.0)
        rows, events = study.rows(), []
        found = study.seed_variance(recipe, progress=events.append)
        yield study, recipe, rows, found, events


def test_the_spread_is_what_each_seed_gives_on_that_engine(spread, shared_task):
    _, recipe, rows, found, events = spread
    task, frame = shared_task, found.frame()
    assert list(frame.index) == ["seed 0", "seed 1", "seed 2", "mean", "min", "max"]
    base = task.evaluate(task.model())
    for seed in range(3):
        variant = wb.Recipe(*recipe.steps, seed=seed).apply(task)
        row = frame.loc[f"seed {seed}"]
        assert row["quality"] == pytest.approx(task.evaluate(variant.predict), abs=0.005)
        assert row["quality_drop"] == pytest.approx(base - row["quality"], abs=1e-6)
        assert row["validation_quality"] == pytest.approx(variant.quality, abs=0.01)
        assert row["params"] == variant.params
    values = [result.quality for result in found.results]
    assert frame.loc["mean", "quality"] == pytest.approx(sum(values) / 3)
    assert (frame.loc["min", "quality"], frame.loc["max", "quality"]) == (min(values), max(values))
    assert (found.backend, found.batch_size, found.recipe) == ("torch-eager", 2, recipe)
    assert "3 seeds: quality mean" in repr(found) and "<table" in found._repr_html_()
    (seed_zero,) = [row for row in rows if row["recipe"] == "prune"]
    assert seed_zero["quality"] == pytest.approx(values[0], abs=1e-9)
    assert {event.stage for event in events} == {"seeds"} and {event.done for event in events} == {0, 1, 2, 3}
    assert {event.total for event in events} == {3} and events[-1].fraction == 1


def test_the_spread_changes_no_row_and_not_the_recommendation(spread):
    study, _, rows, _, _ = spread
    assert json.dumps(study.rows()) == json.dumps(rows)
    assert sum(row["recommended"] for row in rows) == 1


def test_asked_again_the_spread_prepares_nothing(spread, monkeypatch):
    from workbench.study.workers.prepare_client import PrepareClient

    study, recipe, _, found, _ = spread
    monkeypatch.setattr(PrepareClient, "prepare", lambda *_args, **_more: pytest.fail("it was prepared already"))
    again = study.seed_variance(recipe, [0, 2])
    assert again.results == (found.results[0], found.results[2])
    assert list((study.files / "outputs").glob("seed*")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((wb.Recipe(),), "recipe with steps"),
        (("prune",), "needs a Recipe"),
        ((CHAIN, 0), "seeds must be a number of at least 1"),
        ((CHAIN, [1, 1]), "different seeds"),
        ((CHAIN, True), "seeds must be"),
        ((CHAIN, [-1]), "seeds must be"),
        ((CHAIN, 2.5), "seeds must be"),
    ],
)
def test_a_spread_that_has_no_answer_is_refused_before_work_starts(spread, arguments, words):
    study = spread[0]
    with pytest.raises(StudyError, match=words):
        study.seed_variance(*arguments)
    with pytest.raises(ConfigError, match="Did you mean"):
        study.seed_variance(CHAIN, backend="torch-eagre")


def test_a_cancelled_spread_ends_and_leaves_the_study_usable(spread):
    study, recipe, rows, _, _ = spread

    def cancel(_event):
        study.cancel()

    with pytest.raises(Cancelled):
        study.seed_variance(wb.Recipe(*recipe.steps, wb.Recover(epochs=300)), progress=cancel)
    assert study.rows() == rows
