"""A whole small study with real processes: what the rows say is what was done."""

import dataclasses
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import BackendUnavailable, ConfigError, StudyError
from workbench.study.results.schema import COLUMNS, OPTIONAL
from workbench.study.storage.session import RunSession
from workbench.tasks.trees import call_model

BACKENDS = ["torch-eager", "onnxruntime"]
RECIPES = [wb.Recipe(wb.Prune(ratio=0.5), name="prune")]


@dataclasses.dataclass
class Ran:
    """A finished study with what it reported."""

    study: wb.Study
    summary: object
    events: list


@pytest.fixture(scope="module")
def ran(tmp_path_factory, shared_task):
    folder = tmp_path_factory.mktemp("study")
    events = []
    with wb.Study(shared_task, storage=f"sqlite:///{folder}/tiny.db") as study:
        summary = study.run(RECIPES, backends=BACKENDS, batch_sizes=(4, 1), threads=1, progress=events.append)
        yield Ran(study, summary, events)


def test_every_trial_is_complete_and_nothing_is_left_running(ran):
    assert (ran.summary.finished, ran.summary.failed, ran.summary.open, ran.summary.cancelled) == (8, 0, 0, False)
    rows = ran.study.rows()
    assert {(r["recipe"], r["backend"], r["batch_size"]) for r in rows} == {
        (recipe, backend, batch) for recipe in ("float", "prune") for backend in BACKENDS for batch in (4, 1)
    }
    assert all(r["state"] == "complete" and r["error"] is None for r in rows)


def test_columns_are_there_and_none_always_has_a_reason(ran):
    for row in ran.study.rows():
        assert tuple(row) == COLUMNS
        missing = [name for name, value in row.items() if value is None and name not in OPTIONAL]
        assert set(missing) <= set(row["notes"]), (row["recipe"], row["backend"], missing, row["notes"])


def test_the_baseline_is_a_row_of_its_own_with_speedup_one(ran):
    (row,) = [r for r in ran.study.rows() if r["baseline"] and r["batch_size"] == 4]
    assert (row["recipe"], row["backend"], row["speedup"], row["quality_drop"]) == ("float", "torch-eager", 1.0, 0.0)
    assert row["speedup_low"] <= 1.0 <= row["speedup_high"]
    assert "A/A" in row["notes"]["speedup"]


def test_quality_on_an_engine_is_that_of_the_model_itself(ran, shared_task):
    model = shared_task.model()
    expected = shared_task.evaluate(lambda inputs: call_model(model, inputs))
    for row in ran.study.rows():
        if row["recipe"] == "float":
            assert row["quality"] == pytest.approx(expected, abs=1e-9)
            assert abs(row["max_abs_diff"]) < 1e-3
    pruned = [r for r in ran.study.rows() if r["recipe"] == "prune"]
    assert expected == pytest.approx(0.9)
    assert len({r["quality"] for r in pruned}) == 1  # float arithmetic: every engine gives the same answers
    assert all(r["quality_drop"] == pytest.approx(expected - r["quality"]) for r in pruned)
    assert all(r["quality_drop_low"] <= r["quality_drop"] <= r["quality_drop_high"] for r in pruned)
    assert all("Measured at batch 4" in r["notes"]["quality"] for r in pruned if r["batch_size"] == 1)


def _blocks(stored, name):
    count = sum(key.startswith(f"{name}_wait_") for key in stored.files)
    return [(stored[f"{name}_{i}"], stored[f"{name}_wait_{i}"]) for i in range(count)]


def test_figures_follow_from_the_raw_samples(ran):
    for row in ran.study.rows():
        with np.load(ran.study.files / "samples" / row["samples"]) as stored:
            mine, base = (_blocks(stored, name) for name in ("arm", "base"))
        if row["final_rank"] is not None:
            continue  # timed again at the end
        free = [ms[waits <= 0.05 * ms] for ms, waits in mine]
        kept = [ms for ms in free if ms.size]
        middles = [np.median(ms) for ms in (kept if len(kept) >= 6 else [ms for ms, _ in mine])]
        assert row["latency_ms_p50"] == pytest.approx(np.median(middles))
        assert row["throughput_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["latency_ms_p50"])
        if not row["baseline"]:
            assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
            plain = np.median([np.median(b) for b, _ in base]) / np.median([np.median(m) for m, _ in mine])
            if all(waits.max() == 0 for _, waits in (*mine, *base)):
                assert row["speedup"] == pytest.approx(plain, rel=0.2)  # groups of calls instead of single ones


def test_a_runtime_without_torch_needs_less_memory_than_torch(ran):
    peaks = {(r["backend"], r["batch_size"]): r["peak_rss_mib"] for r in ran.study.rows() if r["recipe"] == "float"}
    if None in peaks.values():
        pytest.skip("this machine does not count peak memory")
    assert peaks["onnxruntime", 4] < 0.7 * peaks["torch-eager", 4]


def test_shared_pages_make_the_proportional_set_the_smaller_one(ran):
    for row in ran.study.rows():
        if row["peak_pss_mib"] is not None and row["peak_rss_mib"] is not None:
            assert 1 < row["peak_pss_mib"] <= row["peak_rss_mib"]


def test_every_row_says_which_memory_and_energy_it_was(ran):
    for row in ran.study.rows():
        assert row["gpu_memory_mib"] is None and row["notes"]["gpu_memory_mib"] == "It ran on the CPU."
        if row["backend"] == "torch-eager":  # activations of two convolutions: [4, 16, 8, 8] and what comes after
            assert 16 * 8 * 8 * 4 * row["batch_size"] / 2**20 <= 2.2 * row["allocator_peak_mib"] < 10
        else:
            assert row["allocator_peak_mib"] is None and "only torch" in row["notes"]["allocator_peak_mib"]
        assert row["energy_mj_per_sample"] is None or row["energy_mj_per_sample"] > 0
        assert row["notes"]["energy_mj_per_sample"]


def test_agreement_is_counted_on_the_engine_and_kept_for_the_other_batch_sizes(ran, shared_task):
    model = shared_task.model()
    for row in ran.study.rows():
        assert "same largest output" in row["notes"]["agreement"] or row["baseline"]
        if row["recipe"] == "float":  # every engine answers as torch does
            assert row["agreement"] == 1.0
    pruned = {row["agreement"] for row in ran.study.rows() if row["recipe"] == "prune"}
    variant = RECIPES[0].apply(shared_task)
    x = shared_task.evaluation.inputs
    expected = (variant.module(x).argmax(1) == model(x).argmax(1)).float().mean().item()
    assert len(pruned) == 1 and pruned.pop() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_monitor_rests_while_something_is_timed(shared_task, tmp_path, monkeypatch):
    from workbench.study.execution import timing_pool as room

    monitor, held = wb.Monitor(rate_hz=100, gpu=False), []
    interleave = room.interleave

    def spy(*args, **options):
        before = len(monitor.samples)
        found = interleave(*args, **options)
        held.append(len(monitor.samples) - before)
        return found

    monkeypatch.setattr(room, "interleave", spy)
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/m.db") as study:
        study.run(RECIPES, backends=["onnxruntime"], batch_sizes=(4,), threads=1, monitor=monitor)
        assert not monitor.running and len(monitor.samples) > 5
        assert held == [0, 0] and len(monitor.pauses) == 2
        assert [mark.name for mark in monitor.marks] == ["float", "prune"]
        with monitor:  # one that runs already goes on
            study.run(RECIPES, backends=["onnxruntime"], batch_sizes=(4,), threads=1, monitor=monitor)
            assert monitor.running
        with pytest.raises(StudyError, match=r"Write monitor=wb\.Monitor"):
            study.run(RECIPES, monitor=2.0)


def test_every_row_tells_its_cold_start(ran):
    for row in ran.study.rows():
        assert row["load_ms"] > 0 and row["first_call_ms"] > 0
        assert row["compile_ms"] is None and "Part of load_ms" in row["notes"]["compile_ms"]


def test_pruning_shows_in_params_macs_size_and_steps(ran):
    rows = {(r["recipe"], r["backend"]): r for r in ran.study.rows() if r["batch_size"] == 4}
    before, after = rows["float", "onnxruntime"], rows["prune", "onnxruntime"]
    assert after["params"] < before["params"] and after["macs"] < before["macs"]
    assert after["size_mib"] < before["size_mib"]
    assert before["steps"] == [] and after["steps"][0]["step"]["step"] == "Prune"
    assert wb.Recipe.from_json(after["recipe_json"]) == RECIPES[0]


def test_exactly_one_row_is_recommended_and_best_names_it(ran):
    rows = ran.study.rows()
    best = ran.study.best(quality_drop=1.0)
    assert best.met and best.row["batch_size"] == 4
    asked = [r for r in rows if r["batch_size"] == 4]
    (base,) = [r for r in asked if r["baseline"]]
    for r in asked:
        assert r["latency_ms_rel"] == pytest.approx(base["latency_ms_p50"] / r["speedup"])
    fastest = min(asked, key=lambda r: r["latency_ms_rel"])["trial_key"]
    assert best.row["final_rank"] == 1 or fastest in {best.row["trial_key"], *(r["trial_key"] for r in best.ties)}
    assert sum(r["recommended"] for r in rows) == 1
    assert {r["candidates"] for r in rows} == {4}


def test_the_recommended_row_is_first_in_the_finals_and_says_so(ran):
    rows = ran.study.rows()
    first = [row for row in rows if row["final_rank"] == 1]
    assert [row["trial_key"] for row in first] == [row["trial_key"] for row in rows if row["recommended"]]
    assert all("final_rank" in row["notes"] for row in rows if row["final_rank"] is not None)
    assert first[0]["batch_size"] == 4  # the primary point


def test_frames_hold_every_row_and_the_front_is_part_of_it(ran):
    frame = ran.study.frame()
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS) and len(frame) == 8
    front = ran.study.pareto(batch_size=4)
    assert 1 <= len(front) <= 4 and front["latency_ms_rel"].is_monotonic_increasing


def test_events_tell_the_plan_each_row_and_the_best_so_far(ran):
    assert {e.stage for e in ran.events} == {"study"}
    assert any(len(e.values.get("plan", ())) == 8 for e in ran.events)
    states = [(e.values["row"]["state"], e.values["row"]["trial_key"]) for e in ran.events if "row" in e.values]
    complete = {key for state, key in states if state == "complete"}
    assert len(complete) == 8 == sum(state == "running" for state, _ in states)
    assert ran.events[-1].done == ran.events[-1].total == 8
    assert any(e.values.get("best") for e in ran.events)
    assert any("round 1" in e.message for e in ran.events)
    done = [e.done for e in ran.events if e.total]
    assert all(later >= earlier for earlier, later in itertools.pairwise(done))


def test_running_again_reuses_what_is_complete(ran, started):
    again = ran.study.run(RECIPES, backends=BACKENDS, batch_sizes=(4, 1), threads=1)
    assert (again.finished, again.reused) == (0, 8)
    assert started == []


def test_another_study_object_finds_the_rows_in_the_database(ran, shared_task):
    with wb.Study(shared_task, storage=ran.study.storage) as other:
        assert other.rows() == ran.study.rows()
    with wb.Study(shared_task, storage=ran.study.storage, name="another question") as empty:
        assert empty.rows() == [] and empty.best().row is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"backends": ["onnxruntim"]}, ConfigError, "Did you mean 'onnxruntime'"),
        ({"backends": "openvino"}, ConfigError, "backends must be tuple"),
        ({"batch_sizes": [0]}, ConfigError, "at least 1"),
        ({"threads": 0}, ConfigError, "threads must be"),
        ({"budget_s": -1.0}, ConfigError, "budget_s must be above 0"),
        ({"quality_drop": -1.0}, ConfigError, "quality_drop"),
    ],
)
def test_bad_arguments_are_answered_before_work_starts(ran, started, arguments, error, words):
    with pytest.raises(error, match=words):
        ran.study.run(RECIPES, **arguments)
    assert started == []


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            wb.Prune(of="latency", engine="tpu"),
            "Unknown backend 'tpu'. Allowed: aot-inductor, onnxruntime, openvino, torch",
        ),
        (wb.Distill(teacher="there/is/none.py:teacher"), "The model file"),
        (wb.Distill(teacher="math:no_such"), "no_such"),
        (wb.Distill(features=("no.such.layer",)), "no.such.layer"),
    ],
)
def test_recipes_that_cannot_work_are_answered_before_work_starts(shared_task, tmp_path, started, step, words):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        for ask in (lambda: study.run([*RECIPES, wb.Recipe(step)]), lambda: study.seed_variance(wb.Recipe(step))):
            with pytest.raises(ConfigError) as caught:
                ask()
            assert words in str(caught.value)
        assert started == []
        assert study.rows() == []


def test_a_backend_that_is_not_installed_is_said_with_the_way_to_get_it(ran, monkeypatch):
    from workbench.engine import backends

    def missing(name):
        raise BackendUnavailable(f"Backend {name!r} cannot run here: not installed. pip install it")

    monkeypatch.setattr(backends, "require_backend", missing)
    with pytest.raises(BackendUnavailable, match="pip install"):
        ran.study.run(RECIPES, backends=["openvino"])


class Others(RunSession):
    """Stands for a ledger whose trials others have; ``busy`` says how often somebody is at work still."""

    def __init__(self, missing, busy=0):
        self.left, self.busy, self._left = (
            [SimpleNamespace(key=key, name="x", backend="b") for key in missing],
            busy,
            None,
        )

    def others_at_work(self):
        self.busy -= 1
        return self.left[:1] if self.busy >= 0 else []

    def missing(self, trials):
        return self.left

    def notify(self, words):
        pass


def test_what_a_run_elsewhere_left_undone_meanwhile_is_done_in_another_pass(monkeypatch):
    monkeypatch.setattr("workbench.study.storage.session.words_of", lambda trials: "a trial")
    stop = SimpleNamespace(wait=lambda seconds: None, check=lambda: None)
    left = Others(["a"])  # killed before this run came to look
    assert left.wait_for_others((), stop, look_s=1.0)
    assert not left.wait_for_others((), stop, look_s=1.0)  # that pass could not do it either, and nobody is at work
    assert Others(["a"], busy=2).wait_for_others((), stop, look_s=1.0)
    assert not Others([]).wait_for_others((), stop, look_s=1.0)


def test_a_wrong_name_of_an_argument_does_not_keep_the_study_busy(ran):
    with pytest.raises(ConfigError, match="recipies"):
        ran.study.start(recipies=[])
    job = ran.study.start(RECIPES, backends=BACKENDS, batch_sizes=(4, 1), threads=1)
    assert job.result(60).reused == 8


def test_closing_waits_until_a_run_in_another_thread_has_given_its_trials_free(shared_task, tmp_path):
    begun = threading.Event()
    storage = f"sqlite:///{tmp_path}/s.db"
    with wb.Study(shared_task, storage=storage) as study:
        job = study.start(RECIPES, backends=BACKENDS, batch_sizes=(4,), threads=1, progress=lambda event: begun.set())
        assert begun.wait(60)
    assert job.result(1.0).cancelled
    with wb.Study(shared_task, storage=storage) as study:
        assert "running" not in {row["state"] for row in study.rows()}


@pytest.mark.slow
def test_a_built_in_task_by_name_is_run_and_its_rows_are_reused(tmp_path):
    options = {"backends": ["onnxruntime"], "batch_sizes": (32,), "threads": 1}
    for finished, reused in ((2, 0), (0, 2)):
        with wb.Study("digits", storage=f"sqlite:///{tmp_path}/s.db") as study:
            summary = study.run([], **options)
            assert (summary.finished, summary.reused, summary.failed) == (finished, reused, 0)
