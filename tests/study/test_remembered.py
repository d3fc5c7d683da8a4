"""A finished run of a task that ships is answered from the store, and torch stays where it is."""

import json
import subprocess
import sys
import textwrap

import pytest

import workbench as wb
from workbench.study import remembered
from workbench.study.plan.trials import plan_for
from workbench.study.remembered import Remembered, recall, remember
from workbench.study.results.schema import update_row
from workbench.study.storage.database import Store
from workbench.tasks.known import builtin_key

# What Remembered.of(load_task("digits")) says is checked below: these tests need no torch.
FINGERPRINT = "0123456789ab"
RECIPES = [wb.Recipe(name="float"), wb.Recipe(wb.Prune(ratio=0.5), name="prune")]
BACKENDS, BATCHES = ["torch-eager", "onnxruntime"], (1, 8)
FIGURES = {"latency_ms_p50": 2.0, "throughput_per_s": 500.0, "speedup": 1.0, "quality": 0.9, "quality_drop": 0.0}


@pytest.fixture
def finished(tmp_path):
    """Return the URL of a database in which every row of a grid is complete."""
    url = f"sqlite:///{tmp_path}/s.db"
    plan = plan_for(FINGERPRINT, RECIPES, BACKENDS, BATCHES, threads=None, budget_s=None, finished=True)
    rows = plan.rows("digits", FINGERPRINT)
    store = Store(url)
    more = {"verdict": "same", "notes": {}, "state": "complete", "peak_rss_mib": 100.0, "size_mib": 1.0}
    store.add("digits", {key: update_row(row, **FIGURES, **more) for key, row in rows.items()})
    remember(store, "digits", builtin_key("digits"), Remembered(FINGERPRINT, (), ()))
    store.close()
    return url


_AGAIN = """
    import json, sys
    import workbench as wb
    url, batches = sys.argv[1], json.loads(sys.argv[2])
    recipes = [wb.Recipe(name="float"), wb.Recipe(wb.Prune(ratio=0.5), name="prune")]
    said = []
    with wb.Study("digits", storage=url) as study:
        summary = study.run(recipes, ["torch-eager", "onnxruntime"], batches, progress=said.append)
        best, rows, frame = study.best(), study.rows(), study.frame()
        figure = study.plot()
        words = repr(study)
    print(json.dumps({"torch": "torch" in sys.modules, "reused": summary.reused, "finished": summary.finished,
                      "rows": len(rows), "frame": len(frame), "best": best.row["recipe"], "words": words,
                      "plan": len(said[-1].values["plan"]), "done": [said[-1].done, said[-1].total]}))
"""


def again(url, batches=BATCHES):
    """Run the same study in a fresh process, and return what it saw."""
    code = [sys.executable, "-c", textwrap.dedent(_AGAIN), url, json.dumps(batches)]
    return json.loads(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


def test_a_finished_run_is_answered_without_torch(finished):
    found = again(finished)
    assert found["torch"] is False
    assert (found["finished"], found["reused"], found["rows"], found["frame"], found["plan"]) == (0, 8, 8, 8, 8)
    assert found["done"] == [8, 8] and found["best"] == "float" and "8 of 8 trials complete" in found["words"]


def test_the_shell_answers_it_without_torch(finished, tmp_path):
    listed = tmp_path / "recipes.json"
    listed.write_text(json.dumps([recipe.to_dict() for recipe in RECIPES]))
    words = ["study", "--task", "digits", "--storage", finished, "--recipes", str(listed), "--json"]
    words += ["--backends", *BACKENDS, "--batch-sizes", *map(str, BATCHES)]
    code = (
        "import sys; from workbench.cli.main import main; code = main(sys.argv[1:]); "
        "sys.stderr.write(f'torch {\"torch\" in sys.modules}'); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.endswith("torch False") and len(json.loads(done.stdout)) == 8


def test_what_is_kept_counts_for_the_same_task_only(finished, monkeypatch):
    key = builtin_key("digits")
    store = Store(finished)
    assert recall(store, "digits", key) == Remembered(FINGERPRINT, (), ())
    assert recall(store, "digits", "another") is None and recall(store, "digits", None) is None
    assert recall(store, "other", key) is None
    store.close()


def unreached(*_):
    raise AssertionError("the task was loaded")


def test_the_task_is_loaded_where_a_row_is_missing_or_its_key_has_changed(finished, monkeypatch):
    from workbench.study import study as room

    monkeypatch.setattr(room, "_loaded", unreached)
    with wb.Study("digits", storage=finished) as study:
        assert study.run(RECIPES, BACKENDS, BATCHES).reused == 8
        with pytest.raises(AssertionError, match="was loaded"):
            study.run(RECIPES, BACKENDS, (1, 8, 16))
    monkeypatch.setattr(room, "builtin_key", lambda name: "changed")
    with wb.Study("digits", storage=finished) as study, pytest.raises(AssertionError, match="was loaded"):
        study.run(RECIPES, BACKENDS, BATCHES)


def test_one_row_that_is_not_complete_is_work_that_is_left(finished):
    store = Store(finished)
    known = Remembered(FINGERPRINT, (), ())
    asked = {"threads": None, "budget_s": None, "shapes": None, "baseline": "torch-eager", "references": ()}
    whole = remembered.finished_plan(known, store, "digits", RECIPES, BACKENDS, BATCHES, **asked)
    assert whole is not None and len(whole[1]) == 8
    key = next(iter(store.load("digits")))
    with store._begin() as connection:
        connection.exec_driver_sql(f"UPDATE workbench_trials SET state = 'failed' WHERE trial_key = '{key}'")
    assert remembered.finished_plan(known, store, "digits", RECIPES, BACKENDS, BATCHES, **asked) is None
    store.close()


def test_bad_input_is_refused_as_ever(finished):
    with wb.Study("digits", storage=finished) as study:
        for wrong in ({"backends": ["onnx"]}, {"batch_sizes": (0,)}, {"threads": 0}, {"quality_drop": "x"}):
            with pytest.raises(wb.core.errors.WorkbenchError):
                study.run(**{"recipes": RECIPES, "backends": BACKENDS, "batch_sizes": BATCHES, **wrong})


def test_a_task_of_a_file_is_loaded_at_once_since_nothing_else_tells_what_it_is(tiny_spec, tmp_path):
    with wb.Study(tiny_spec, storage=f"sqlite:///{tmp_path}/s.db") as study:
        assert study._task is not None and study._key is None


@pytest.mark.slow
def test_a_real_run_of_digits_is_remembered(tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    with wb.Study("digits", storage=url) as study:
        assert study._task is None
        assert study.run([], ["torch-eager"], [8]).finished == 1
        assert study._store.setting("digits", "task")["fingerprint"] == study.task.fingerprint
        assert Remembered.of(study.task).own == ()
    with wb.Study("digits", storage=url) as study:
        assert study.run([], ["torch-eager"], [8]).reused == 1
        assert study._task is None and study.best().row["state"] == "complete"
