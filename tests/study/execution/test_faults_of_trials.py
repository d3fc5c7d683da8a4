"""What goes wrong inside one trial fails that trial, with the reason, and no other."""

import psutil
import pytest
from paths import SUPPORT

import workbench as wb

FAULTS = SUPPORT / "faults.py"
PRUNE = wb.Recipe(wb.Prune(ratio=0.5), name="prune")
ENOUGH_S = 25.0


def ran(name, folder, recipes, backends, **options):
    """Run a task with a fault; return its summary and the rows by recipe and backend."""
    with wb.Study(f"{FAULTS}:{name}", storage=f"sqlite:///{folder}/s.db") as study:
        summary = study.run(recipes, backends=backends, batch_sizes=[2], threads=1, **options)
        rows = {(row["recipe"], row["backend"]): row for row in study.rows()}
    alive = [
        p for p in psutil.Process().children(recursive=True) if "workbench.study.workers.main" in " ".join(p.cmdline())
    ]
    assert alive == []
    return summary, rows


@pytest.mark.slow
def test_a_loss_that_turns_nan_fails_its_trial_and_the_others_go_on(tmp_path):
    diverges = wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(epochs=5), name="diverges")
    summary, rows = ran("nan_in_training", tmp_path, [diverges, PRUNE], ["onnxruntime"])
    assert (summary.finished, summary.failed) == (3, 1)
    failed = rows["diverges", "onnxruntime"]
    assert failed["state"] == "failed" and "training loss became nan" in failed["error"]
    assert rows["prune", "onnxruntime"]["state"] == "complete"


@pytest.mark.slow
def test_an_export_that_hangs_is_killed_after_the_time_that_was_given(tmp_path):
    other = wb.Recipe(wb.Quantize(), name="int8")
    summary, rows = ran("hanging_export", tmp_path, [PRUNE, other], ["onnxruntime"], stall_timeout_s=ENOUGH_S)
    failed = rows["prune", "onnxruntime"]
    assert failed["state"] == "failed"
    assert f"no progress for {ENOUGH_S:g} s" in failed["error"] and "writing the artifact" in failed["error"]
    assert rows["int8", "onnxruntime"]["state"] == "complete"
    assert (summary.finished, summary.failed) == (3, 1)


@pytest.mark.slow
def test_an_engine_that_crashes_fails_its_row_by_the_name_of_the_signal(tmp_path):
    summary, rows = ran("crashing_engine", tmp_path, [PRUNE], ["torch-eager", "onnxruntime"])
    failed = rows["prune", "torch-eager"]
    assert failed["state"] == "failed" and "ended by SIGSEGV" in failed["error"]
    assert rows["prune", "onnxruntime"]["state"] == "complete"
    assert (summary.finished, summary.failed) == (3, 1)


@pytest.mark.parametrize("wrong", [0, -1.0, True, "10"])
def test_a_timeout_that_is_none_is_refused_before_any_work(shared_task, tmp_path, started, wrong):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        with pytest.raises(wb.core.errors.ConfigError, match="stall_timeout_s must be"):
            study.run([PRUNE], backends=["onnxruntime"], batch_sizes=[2], stall_timeout_s=wrong)
        assert started == [] and study.rows() == []
