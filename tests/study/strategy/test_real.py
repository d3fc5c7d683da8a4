"""The default plan with real processes on a task that trains in seconds: what it leaves, and that it is repeated."""

import sys

import pytest
from paths import SUPPORT

import workbench as wb
from workbench.compress.recipe import Recipe

FIXTURES = SUPPORT
BACKENDS = ["torch-eager", "onnxruntime"]
pytestmark = pytest.mark.slow


def small_task(*, train=True):
    """Return the tiny task, or one of the same net without a training split."""
    sys.path.insert(0, str(FIXTURES))
    import tiny

    return wb.load_task(f"{FIXTURES / 'tiny.py'}:tiny") if train else _without_train(tiny)


def _without_train(tiny):
    from workbench.tasks.builtin import accuracy

    x, y = tiny.images(600, 9)
    import torch

    return wb.tasks.Task(
        name="tiny without train", build=tiny.build, train=None, evaluation=(x, y), metric=accuracy,
        loss=torch.nn.functional.cross_entropy,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("strategy"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(folder / "cache"))
        with wb.Study(small_task(), storage=f"sqlite:///{folder}/s.db") as study:
            summary = study.run(
                None,
                backends=BACKENDS,
                batch_sizes=(8, 1),
                threads=1,
                budget_s=240.0,
                progress=lambda p: said.append(p),
            )
            yield study, summary, said


def test_what_needs_no_training_is_complete_and_decided(ran):
    study, summary, _ = ran
    rows = {(r["recipe"], r["backend"], r["batch_size"]): r for r in study.rows()}
    for recipe, backend in (("float", "torch-eager"), ("float", "onnxruntime"), ("quantize", "onnxruntime")):
        assert rows[recipe, backend, 8]["state"] == "complete"
        assert rows[recipe, backend, 8]["fidelity"] == "full"
    assert study.best().met and summary.seconds < 250


def test_int8_in_torch_eager_is_timed_once_and_not_evaluated(ran):
    study = ran[0]
    (row,) = [r for r in study.rows() if (r["recipe"], r["backend"]) == ("quantize", "torch-eager")]
    assert (row["state"], row["fidelity"], row["quality"]) == ("complete", "survey", None)
    assert row["latency_ms_p50"] > 0 and row["notes"]["quality"] and row["notes"]["fidelity"]


def test_every_technique_has_a_row_or_a_reason(ran):
    study = ran[0]
    seen = {r["technique"] for r in study.rows() if r["state"] == "complete"}
    told = {d.subject for d in study.decisions()}
    for technique in ("prune", "factorize", "sparsify", "quantize"):
        assert technique in seen or technique in told
    assert "float" in seen and {d.outcome for d in study.decisions()} <= {"kept", "dropped", "survey", "not begun"}


def test_the_plan_is_printed_before_it_starts_and_its_recipes_are_known(ran):
    study, _, said = ran
    first = next(p.message for p in said if p.message.startswith("plan for"))
    assert "240 s" in first and "onnxruntime" in first
    assert {r["recipe_id"] for r in study.rows() if r["technique"] != "float"} <= set(study.planned())
    assert all(isinstance(Recipe.from_json(r["recipe_json"]), Recipe) for r in study.rows())


def test_running_again_does_nothing_new(ran):
    study, before, _ = ran
    rows = len(study.rows())
    again = study.run(None, backends=BACKENDS, batch_sizes=(8, 1), threads=1, budget_s=230.0)
    assert again.finished == 0 and again.reused >= before.finished and len(study.rows()) == rows


def test_explicit_recipes_have_no_decisions(ran):
    study = ran[0]
    known = study.decisions()
    study.run([wb.Recipe(name="float")], backends=["onnxruntime"], batch_sizes=(8,), threads=1)
    assert known and study.decisions() == () and study.planned() == ()


def test_without_a_training_split_the_best_free_variant_is_found_and_data_is_priced(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    with wb.Study(small_task(train=False), storage=f"sqlite:///{tmp_path}/s.db") as study:
        study.run(None, backends=["onnxruntime"], batch_sizes=(8,), threads=1, budget_s=150.0)
        assert study.best().met
        assert [d.stage for d in study.decisions()].count("data") == 1
        assert not any(step.get("epochs_done") for row in study.rows() for step in row["steps"])
