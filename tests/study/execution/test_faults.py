"""Cancel, kill, Ctrl-C, crash, two runs at once: each leaves a study that can be run again."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

import workbench as wb
from workbench.core.errors import Cancelled, ConfigError, StudyError
from workbench.study.workers.timing_client import EngineProcess

PRUNE = wb.Recipe(wb.Prune(ratio=0.5), name="prune")
SLOW = wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(epochs=500), name="slow")


def open_study(task, folder):
    return wb.Study(task, storage=f"sqlite:///{folder}/s.db")


def workers():
    return [
        p for p in psutil.Process().children(recursive=True) if "workbench.study.workers.main" in " ".join(p.cmdline())
    ]


def states(study):
    return {(r["recipe"], r["backend"]): r["state"] for r in study.rows()}


@pytest.mark.slow
def test_a_killed_trial_fails_alone_and_is_tried_again_by_the_next_run(shared_task, tmp_path, started):
    def kill_once(event):
        for name, trial, worker in started:
            if "round 2" in event.message and trial.backend == "onnxruntime" and name == trial.key:
                os.kill(worker.pid, signal.SIGKILL)

    with open_study(shared_task, tmp_path) as study:
        summary = study.run([], backends=["torch-eager", "onnxruntime"], batch_sizes=[2], threads=1, progress=kill_once)
        assert (summary.finished, summary.failed, summary.cancelled) == (1, 1, False)
        (failed,) = [r for r in study.rows() if r["state"] == "failed"]
        assert failed["backend"] == "onnxruntime" and "SIGKILL" in failed["error"]
        assert study.best().row["backend"] == "torch-eager"
        again = study.run([], backends=["torch-eager", "onnxruntime"], batch_sizes=[2], threads=1)
        assert (again.finished, again.reused, again.failed) == (1, 1, 0)
        assert set(states(study).values()) == {"complete"}
        assert [r["error"] for r in study.rows()] == [None, None]
    assert workers() == []


@pytest.mark.slow
def test_cancel_from_another_thread_keeps_what_is_complete_and_ends_every_process(shared_task, tmp_path):
    with open_study(shared_task, tmp_path) as study:

        def cancel_in_training(event):
            if event.values.get("step", {}).get("stage") == "recover":
                threading.Thread(target=study.cancel).start()

        job = study.start([SLOW], backends=["torch-eager"], batch_sizes=[2], threads=1, progress=cancel_in_training)
        summary = job.result(240)
        assert summary.cancelled and (summary.finished, summary.open) == (1, 1)
        assert states(study) == {("float", "torch-eager"): "complete", ("slow", "torch-eager"): "cancelled"}
        assert workers() == []
        with pytest.raises(ConfigError, match="budget_s"):
            study.start(budget_s=0)


def test_a_second_run_of_one_study_object_is_refused_while_it_runs(shared_task, tmp_path):
    with open_study(shared_task, tmp_path) as study:
        refused = []

        def again(event):
            try:
                study.run()
            except StudyError as error:
                refused.append(str(error))
            raise Cancelled

        summary = study.run([PRUNE], backends=["torch-eager"], batch_sizes=[2], progress=again)
        assert summary.cancelled and summary.finished == 0
        assert "running already" in refused[0]


@pytest.mark.slow
def test_a_killed_preparing_process_fails_that_recipe_only(shared_task, tmp_path):
    def kill_once(event):
        if event.values.get("step", {}).get("stage") == "recover":
            for process in workers():
                if "prepare" in process.cmdline():
                    process.kill()

    with open_study(shared_task, tmp_path) as study:
        summary = study.run([SLOW, PRUNE], backends=["torch-eager"], batch_sizes=[2], threads=1, progress=kill_once)
        assert states(study) == {
            ("float", "torch-eager"): "complete",
            ("slow", "torch-eager"): "failed",
            ("prune", "torch-eager"): "complete",
        }
        assert summary.failed == 1
        (row,) = [r for r in study.rows() if r["state"] == "failed"]
        assert "could not be prepared" in row["error"] and "SIGKILL" in row["error"]


@pytest.mark.slow
def test_a_killed_baseline_is_started_again_and_nothing_fails(shared_task, tmp_path, started):
    killed = []

    def kill_once(event):
        if "round 2" in event.message and not killed:
            killed.extend(worker.pid for name, _, worker in started if name.startswith("baseline"))
            os.kill(killed[0], signal.SIGKILL)

    with open_study(shared_task, tmp_path) as study:
        summary = study.run([], backends=["torch-eager", "onnxruntime"], batch_sizes=[2], threads=1, progress=kill_once)
        assert (summary.finished, summary.failed) == (2, 0)


@pytest.mark.slow
def test_a_recipe_that_cannot_be_applied_fails_with_its_reason_and_the_rest_goes_on(shared_task, tmp_path):
    impossible = wb.Recipe(wb.Factorize(ratio=1.0), name="impossible")
    with open_study(shared_task, tmp_path) as study:
        study.run([impossible, PRUNE], backends=["torch-eager"], batch_sizes=[2], threads=1)
        rows = {r["recipe"]: r for r in study.rows()}
        assert rows["impossible"]["state"] == "failed" and "touched no layer" in rows["impossible"]["error"]
        assert rows["prune"]["state"] == "complete"


@pytest.mark.slow
def test_a_budget_leaves_what_does_not_fit_waiting_and_says_so(shared_task, tmp_path):
    long = wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(max_seconds=500.0), name="long")
    with open_study(shared_task, tmp_path) as study:
        summary = study.run([long], backends=["torch-eager"], batch_sizes=[2], threads=1, budget_s=200)
        assert states(study)["long", "torch-eager"] == "waiting"
        assert any("long on torch-eager at batch 2" in line for line in summary.cut)
        (row,) = [r for r in study.rows() if r["recipe"] == "long"]
        assert "budget" in row["notes"]["state"]


_SCRIPT = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job may start with it ignored
    import workbench as wb
    from workbench.study.execution.budget import TimeBudget
    TimeBudget.rounds, TimeBudget.block_s = (6, 6), 0.01
    task, url = sys.argv[1:3]
    recipes = [wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(epochs=500), name="slow")]
    if len(sys.argv) > 3:
        recipes = [wb.Recipe(wb.Prune(ratio=r), name=f"prune{r}") for r in (0.3, 0.5)]
    study = wb.Study(task, storage=url)
    def say(event):
        row = event.values.get("row")
        print(f"ROW {row['recipe']} {row['state']}" if row else event.message, flush=True)
    try:
        summary = study.run(recipes, backends=["torch-eager"], batch_sizes=[2], threads=1, progress=say)
        print("SUMMARY", summary, flush=True)
    except KeyboardInterrupt:
        print("INTERRUPTED", flush=True)
"""


def shell(task, url, *more):
    code = textwrap.dedent(_SCRIPT)
    return subprocess.Popen(
        [sys.executable, "-c", code, task, url, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(process, words):
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"the process ended before it said {words!r}")


def training_in_a_shell(task, tmp_path):
    """Return the process of a study that has begun to train, and its children."""
    process = shell(task.reference, f"sqlite:///{tmp_path}/s.db")
    wait_for(process, "epoch")
    return process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_ctrl_c_in_a_shell_marks_the_running_trial_and_keeps_the_others(shared_task, tmp_path):
    process, children = training_in_a_shell(shared_task, tmp_path)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "INTERRUPTED" in out
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    with open_study(shared_task, tmp_path) as study:
        assert states(study) == {("float", "torch-eager"): "complete", ("slow", "torch-eager"): "cancelled"}


@pytest.mark.slow
def test_a_run_that_was_killed_is_taken_up_again(shared_task, tmp_path):
    process, children = training_in_a_shell(shared_task, tmp_path)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    with open_study(shared_task, tmp_path) as study:
        assert states(study)["slow", "torch-eager"] == "running"  # nobody could say otherwise

        def stop(event):
            if event.values.get("step", {}).get("stage") == "recover":
                study.cancel()

        summary = study.run([SLOW], backends=["torch-eager"], batch_sizes=[2], threads=1, progress=stop)
        assert summary.reused == 1
        assert states(study)["slow", "torch-eager"] == "cancelled"


@pytest.mark.slow
def test_two_runs_at_once_share_the_work_and_do_nothing_twice(shared_task, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    pair = [shell(shared_task.reference, url, "quick") for _ in range(2)]
    said = [process.communicate(timeout=280)[0].splitlines() for process in pair]
    done = [line for lines in said for line in lines if line.startswith("ROW") and line.endswith("complete")]
    assert sorted(done) == ["ROW float complete", "ROW prune0.3 complete", "ROW prune0.5 complete"], said
    with open_study(shared_task, tmp_path) as study:
        assert set(states(study).values()) == {"complete"}


@pytest.mark.slow
def test_a_task_from_a_notebook_travels_without_a_reference(tmp_path):
    code = textwrap.dedent(
        """
        import functools, sys, torch
        import workbench as wb
        from workbench.study.execution.budget import TimeBudget
        TimeBudget.rounds, TimeBudget.block_s = (6, 6), 0.01
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.body = torch.nn.Linear(6, 3)
            def forward(self, x):
                return {"logits": self.body(x)}
        @functools.lru_cache
        def weights():
            torch.manual_seed(0)
            return Net().state_dict()
        def build():
            net = Net()
            net.load_state_dict(weights())
            return net
        x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
        y = build()(x)["logits"].argmax(1)
        task = wb.Task(name="mine", build=build, train=(x[:200], y[:200]), evaluation=(x[200:], y[200:]),
                       metric=lambda out, y: float((out["logits"].argmax(1) == y).float().mean()),
                       loss=lambda out, y: torch.nn.functional.cross_entropy(out["logits"], y))
        study = wb.Study(task, storage=sys.argv[1])
        study.run([], backends=["torch-eager", "onnxruntime"], batch_sizes=[2], threads=1)
        for row in study.rows():
            print(row["backend"], row["state"], row["quality"], row["error"])
        """
    )
    url = f"sqlite:///{tmp_path}/s.db"
    run = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["torch-eager complete 1.0 None", "onnxruntime complete 1.0 None"]


def test_a_task_that_cannot_travel_is_refused_before_work_starts(shared_task, tmp_path, started, monkeypatch):
    lock = threading.Lock()
    build = shared_task.build
    monkeypatch.setattr(shared_task, "build", lambda: (lock, build())[1])
    with (
        open_study(shared_task, tmp_path) as study,
        pytest.raises(StudyError, match=r"build of task.*cannot be pickled"),
    ):
        study.run([PRUNE], backends=["torch-eager"], batch_sizes=[2])
    assert started == [] and EngineProcess is not None


def test_waiting_for_a_run_elsewhere_can_be_cancelled(shared_task, tmp_path, started):
    with open_study(shared_task, tmp_path) as study:
        from workbench.study.plan.trials import make_plan

        plan = make_plan(shared_task.fingerprint, [], ["torch-eager"], [2], threads=1)
        store = study._store
        store.add(study.name, plan.rows(shared_task.name, shared_task.fingerprint))
        store.claim(study.name, [t.key for t in plan.trials], f"elsewhere:1:{time.time()}")

        def cancel(event):
            if "waiting for another run" in event.message:
                study.cancel()

        summary = study.run([], backends=["torch-eager"], batch_sizes=[2], threads=1, progress=cancel)
        assert summary.cancelled and (summary.finished, summary.open) == (0, 1)
        assert started == []
