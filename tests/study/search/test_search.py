"""A small search with real processes: what the rows and Optuna's tables say is what was done."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import optuna
import pytest

import workbench as wb
from workbench.compress.model_ops import predict_with
from workbench.core.errors import BackendUnavailable, ConfigError
from workbench.study.results.schema import OPTIONAL
from workbench.study.search import api
from workbench.study.search.sampler import quiet_optuna

PRUNE = wb.maybe(wb.vary(wb.Prune, ratio=wb.choice(0.5), round_to=1))
SPACE = wb.Space(PRUNE, backends="onnxruntime", batch_sizes=4, engine={"graph_optimization": wb.choice("all", "none")})
LOOSE = wb.Goals(max_quality_drop=1.0)


@dataclasses.dataclass
class Searched:
    """A study that was searched, with what it returned and reported."""

    study: wb.Study
    result: object
    events: list


@pytest.fixture(scope="module")
def searched(tmp_path_factory, shared_task):
    folder, events = tmp_path_factory.mktemp("search"), []
    with wb.Study(shared_task, storage=f"sqlite:///{folder}/s.db") as study:
        options = {"sampler": "grid", "goals": LOOSE, "trials": 10, "threads": 1}
        yield Searched(study, study.search(SPACE, progress=events.append, **options), events)


def by_point(study):
    return {(r["recipe"], r["backend"], r["engine_json"]): r for r in study.rows()}


@pytest.mark.slow
def test_every_point_is_a_row_with_the_baseline_beside_it(searched):
    rows = by_point(searched.study)
    none = '{"graph_optimization":"none"}'
    assert set(rows) == {
        ("float", "torch-eager", "{}"), ("float", "onnxruntime", "{}"), ("float", "onnxruntime", none),
        ("prune 0.5", "onnxruntime", "{}"), ("prune 0.5", "onnxruntime", none),
    }  # fmt: skip
    for row in rows.values():
        missing = [name for name, value in row.items() if value is None and name not in OPTIONAL]
        assert row["state"] == "complete" and set(missing) <= set(row["notes"]), (missing, row["notes"])
    assert len({row["trial_key"] for row in rows.values()}) == 5
    assert {row["candidates"] for row in rows.values()} == {5}
    assert (searched.result.new, searched.result.reused, len(searched.result.history.trials)) == (4, 0, 4)
    assert "the whole space was searched (4 points)" in searched.result.ended


@pytest.mark.slow
def test_the_drop_that_the_search_sees_is_that_of_the_validation_split(searched, shared_task):
    variant = wb.Recipe(wb.Prune(0.5, round_to=1)).apply(shared_task)

    def judge(module):
        return shared_task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")

    lost = judge(shared_task.model()) - judge(variant.module)
    for row in searched.study.rows():
        assert row["validation_drop"] == pytest.approx(lost if row["recipe"] == "prune 0.5" else 0.0, abs=1e-9)
        if not row["baseline"]:
            assert "On this engine" in row["notes"]["validation_drop"]
    seen = sorted(one.validation_drop for one in searched.result.history.trials)
    assert lost > 0 and seen == pytest.approx([0.0, 0.0, lost, lost])


@pytest.mark.slow
def test_exactly_one_row_is_recommended_and_the_study_keeps_saying_so(searched):
    best = searched.result.best
    assert best.met and "meet the goals (drop at most 1; 5 compared)" in best.reason
    (marked,) = [r for r in searched.study.rows() if r["recommended"]]
    assert marked["trial_key"] == best.row["trial_key"] == searched.study.best().row["trial_key"]
    assert best.reason in repr(searched.result)


@pytest.mark.slow
def test_optuna_opens_the_search_in_the_same_database(searched):
    history = searched.study.search_history()
    with quiet_optuna():
        study = optuna.load_study(study_name=history.name, storage=searched.study.storage)
    rows = {row["trial_key"]: row for row in searched.study.rows()}
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 4
    params = [(t.params["Prune?"], t.params["engine.graph_optimization"]) for t in study.trials]
    assert sorted(params) == [(False, "all"), (False, "none"), (True, "all"), (True, "none")]
    for trial in study.trials:
        row = rows[trial.user_attrs["trial_key"]]
        base = next(r for r in rows.values() if r["baseline"])
        assert trial.value == pytest.approx(base["latency_ms_p50"] / row["speedup"])
        assert trial.user_attrs["row"]["recipe"] == row["recipe"]
        assert "quality" not in trial.user_attrs["row"] and trial.constraints["max_quality_drop"] <= 0
    assert history == searched.result.history and len(history.frame()) == 4


@pytest.mark.slow
def test_events_count_points_and_tell_the_best_so_far(searched):
    assert {event.stage for event in searched.events} == {"search"}
    done = [event.done for event in searched.events]
    assert done == sorted(done) and done[-1] == 4
    rows = [event.values["row"]["state"] for event in searched.events if "row" in event.values]
    assert "running" in rows and "complete" in rows
    assert searched.events[-1].values["best"]["trial_key"] == searched.result.best.row["trial_key"]
    assert "best so far: " in searched.events[-1].message


@pytest.mark.slow
def test_the_same_call_again_starts_no_process(searched, started):
    again = searched.study.search(SPACE, sampler="grid", goals=LOOSE, trials=10, threads=1)
    assert started == [] and again.new == 0
    assert again.history == searched.result.history and again.best == searched.result.best


@pytest.mark.slow
def test_another_sampler_is_answered_from_the_rows(searched, started):
    other = searched.study.search(SPACE, sampler="random", goals=LOOSE, trials=3, threads=1)
    assert started == [] and (other.new, len({one.trial_key for one in other.history.trials})) == (0, 3)
    assert all(one.reused for one in other.history.trials)


@pytest.mark.slow
def test_hopeless_points_are_rows_that_were_not_timed_until_a_plan_asks_for_them(searched, started):
    space = wb.Space(wb.vary(wb.Prune, ratio=wb.choice(0.75), round_to=1), backends="onnxruntime", batch_sizes=4)
    result = searched.study.search(space, sampler="random", goals=wb.Goals(max_quality_drop=0.001), trials=1, threads=1)
    (row,) = [r for r in searched.study.rows() if r["state"] == "pruned"]
    assert "loses" in row["error"] and "0.001 is accepted" in row["error"] and row["latency_ms_p50"] is None
    assert row["validation_drop"] > 0.001 and row["size_mib"] > 0 and row["params"] > 0 and row["steps"]
    assert [one.state for one in result.history.trials] == ["pruned"]
    assert result.best.met and result.best.row["recipe"] == "float"  # rows of the whole study stand beside
    assert "Study('answers'" in repr(searched.study)
    summary = searched.study.run(
        [wb.Recipe.from_json(row["recipe_json"])], backends=["onnxruntime"], batch_sizes=[4], threads=1
    )
    assert (summary.finished, summary.failed) == (1, 0)
    (same,) = [r for r in searched.study.rows() if r["trial_key"] == row["trial_key"]]
    assert same["state"] == "complete" and same["error"] is None
    with pytest.raises(ConfigError, match="holds no search"):
        searched.study.search_history()
    # and put back what the other tests look at
    searched.study.search(SPACE, sampler="grid", goals=LOOSE, trials=10, threads=1)


def test_a_budget_that_is_too_short_leaves_the_point_for_the_next_call(shared_task, tmp_path, started):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        result = study.search(SPACE, trials=3, threads=1, budget_s=1.0)
        assert started == [] and result.ended == "the time budget was used up" and not result.cancelled
        assert {row["state"] for row in study.rows()} == {"waiting"} and result.best.row is None
        assert [one.state for one in result.history.trials] == ["interrupted"]

        def cancel(event):
            study.cancel()

        result = study.search(SPACE, trials=3, threads=1, progress=cancel)
        assert result.cancelled and result.new == 0 and result.ended == "it was cancelled"


@pytest.mark.slow
def test_a_file_that_is_too_large_is_not_timed_and_nothing_met_is_said_plainly(shared_task, tmp_path, started):
    space = wb.Space(backends="onnxruntime", batch_sizes=4)
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        result = study.search(space, goals=wb.Goals(max_size_mib=0.001), trials=3, threads=1)
        (row,) = [r for r in study.rows() if r["backend"] == "onnxruntime"]
        assert row["state"] == "pruned" and "MiB, and 0.001 are accepted" in row["error"]
        assert not result.best.met and result.best.row["baseline"]
        assert result.best.reason.startswith("Nothing met the goals (drop at most 0.01, size at most 0.001 MiB)")
        assert set(result.nearest) == {"max_size_mib"} and "(1 points)" in result.ended
        assert not any(r["recommended"] for r in study.rows())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"space": {}}, ConfigError, r"space must be a wb.Space"),
        ({"sampler": "tp"}, ConfigError, "Did you mean 'tpe'"),
        ({"trials": 0}, ConfigError, "trials must be at least 1"),
        ({"trials": True}, ConfigError, "trials must be int"),
        ({"seed": -1}, ConfigError, "seed must be"),
        ({"threads": 0}, ConfigError, "threads must be"),
        ({"budget_s": 0}, ConfigError, "budget_s must be above 0"),
        ({"goals": 0.01}, ConfigError, "goals must be"),
        ({"minimize": "speedup"}, ConfigError, "Write maximize='speedup'"),
        ({"prior": "prune"}, ConfigError, "prior must be"),
        ({"prune": "no"}, ConfigError, r"prune must be bool, got 'no' \(str\)"),
        ({"minimize": []}, ConfigError, "minimize is empty. Name a column"),
        ({"progress": 1}, ConfigError, "progress must be a function"),
        ({"space": wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.8))), "sampler": "grid"}, ConfigError, "a step"),
        ({"space": wb.Space(wb.Distill(features=("no.such.layer",)))}, ConfigError, "no.such.layer"),
        ({"sampler": "grid", "minimize": ("size_mib", "latency_ms_p50")}, ConfigError, "one figure"),
    ],
)
def test_bad_arguments_are_answered_before_work_starts(shared_task, tmp_path, started, arguments, error, words):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        with pytest.raises(error, match=words):
            study.search(**{"space": SPACE, **arguments})
        assert started == [] and study.rows() == []
        assert study.best().row is None


@pytest.mark.slow
def test_a_backend_that_is_not_installed_is_said(searched, monkeypatch):
    def missing(name):
        raise BackendUnavailable(f"Backend {name!r} cannot run here. pip install it")

    monkeypatch.setattr(api, "require_backend", missing)
    with pytest.raises(BackendUnavailable, match="pip install"):
        searched.study.search(SPACE)


_SCRIPT = textwrap.dedent(
    """
    import sys
    import workbench as wb
    from workbench.study.execution.budget import TimeBudget
    TimeBudget.rounds, TimeBudget.block_s = (6, 6), 0.01
    prune = wb.vary(wb.Prune, ratio=wb.between(0.1, 0.9), round_to=1)
    space = wb.Space(prune, backends="onnxruntime", batch_sizes=4)
    def tell(event):
        row = event.values.get("row")
        if row:
            print("ROW", row["recipe"], row["state"], flush=True)
    with wb.Study(sys.argv[1], storage=sys.argv[2]) as study:
        goals = wb.Goals(max_quality_drop=1.0)
        options = {"sampler": "random", "goals": goals, "trials": 3, "threads": 1, "prune": False}
        result = study.search(space, progress=tell, **options)
        print("ENDED", len({t.trial_key for t in result.history.trials if t.state == "complete"}), result.new)
        print("STATES", *[t.state for t in result.history.trials])
    """
)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_with_the_point_it_was_at(shared_task, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    command = [sys.executable, "-c", _SCRIPT, shared_task.reference, url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    recipe = None
    for line in process.stdout:
        word, *rest = line.split()
        done = " ".join(rest)
        if word == "ROW" and done.endswith("running") and recipe not in (None, done) and "float" not in done:
            os.kill(process.pid, signal.SIGKILL)  # at the second point
            break
        if word == "ROW" and "float" not in done:
            recipe = recipe or done
    process.wait()
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250).stdout.splitlines()
    ended, states = (next(line for line in said if line.startswith(word)) for word in ("ENDED", "STATES"))
    assert ended == "ENDED 3 2"
    assert states == "STATES complete interrupted complete complete"
    with wb.Study(shared_task, storage=url) as study:
        assert {row["state"] for row in study.rows()} == {"complete"} and len(study.rows()) == 4
        tried = study.search_history().trials
        assert tried[1].params == tried[2].params
        assert json.loads(study.rows()[0]["engine_json"]) == {}
