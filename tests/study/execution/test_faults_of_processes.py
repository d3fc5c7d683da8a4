"""Ctrl-C at every stage, a killed study, two studies at once: nothing is lost, done twice or left running."""

import json
import re
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest
from paths import SUPPORT

import workbench as wb

ANSWERS = f"{SUPPORT / 'answers.py'}:slow_answers"
RECIPES = [wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(epochs=2), name="trained")]
BACKENDS = ["torch-eager", "onnxruntime"]
STAGES = {
    "planning": "checking the task",
    "preparing": "float on torch-eager at batch 2: started",
    "training": "epoch",
    "exporting": "trained: writing the artifact",
    "loading": "loading trained on",
    "timing": "timing trained on torch-eager, onnxruntime at batch 2: round 2",
    "quality": "evaluating trained on onnxruntime",
    "saving": r"trained on torch-eager at batch 2: \d",
}

# The real command, but every line of progress is written, and timings are short.
_SHELL = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job may start with it ignored
    from workbench.present import terminal
    from workbench.study.execution.budget import TimeBudget
    terminal.ProgressLog.__init__.__kwdefaults__["every_s"] = 0.0
    TimeBudget.rounds, TimeBudget.block_s = (6, 6), 0.01
    from workbench.cli.main import main
    sys.exit(main(sys.argv[1:]))
"""


def command(folder):
    """Return the process of ``workbench study`` on the task that trains slowly."""
    (folder / "recipes.json").write_text(json.dumps([recipe.to_dict() for recipe in RECIPES]))
    words = ["study", "--task", ANSWERS, "--storage", f"sqlite:///{folder}/s.db", "--threads", "1", "--json"]
    words += ["--recipes", str(folder / "recipes.json"), "--backends", *BACKENDS, "--batch-sizes", "2"]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SHELL), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_words(process, words):
    """Read progress until a line has ``words``, a pattern; return all processes that there are then."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(words, line):
            return psutil.Process(process.pid).children(recursive=True)
    raise AssertionError(f"the command ended before it said {words!r}: {''.join(seen[-5:])}")


def kept_rows(folder):
    """Return the complete rows in the database, by key."""
    with wb.Study(ANSWERS, storage=f"sqlite:///{folder}/s.db") as study:
        return {row["trial_key"]: row for row in study.rows() if row["state"] == "complete"}


def complete_again(folder, kept):
    """Run it to its end, and check that nothing was done twice."""
    with wb.Study(ANSWERS, storage=f"sqlite:///{folder}/s.db") as study:
        summary = study.run(RECIPES, backends=BACKENDS, batch_sizes=[2], threads=1)
        rows = {row["trial_key"]: row for row in study.rows()}
    assert {row["state"] for row in rows.values()} == {"complete"} and len(rows) == 4
    assert (summary.finished, summary.reused, summary.failed) == (4 - len(kept), len(kept), 0)
    # the name of a file of raw samples is made from its content: equal names, the same measurement
    assert all(rows[key]["samples"] == row["samples"] for key, row in kept.items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_at_any_stage_keeps_what_is_finished_and_leaves_no_process(tmp_path, stage):
    process = command(tmp_path)
    children = await_words(process, STAGES[stage])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    kept = kept_rows(tmp_path)
    expected = {"planning": 0, "preparing": 0}.get(stage, 2)  # the float model is timed before the other one is trained
    assert len(kept) >= expected and len(kept) < 4
    complete_again(tmp_path, kept)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["training", "timing", "saving"])
def test_a_study_that_is_killed_leaves_no_process_and_the_next_run_completes_it(tmp_path, stage):
    process = command(tmp_path)
    children = await_words(process, STAGES[stage])
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    kept = kept_rows(tmp_path)
    assert len(kept) >= 2
    complete_again(tmp_path, kept)


_TWO = """
    import json, sys, time
    import workbench as wb
    from workbench.study.execution.budget import TimeBudget
    from workbench.study.workers.policy import Phases
    TimeBudget.rounds, TimeBudget.block_s = (6, 6), 0.05
    seen, add = [], Phases.add
    def spy(self, spans):
        spans = list(spans)
        seen.extend(spans)
        add(self, spans)
    Phases.add = spy
    task, url, ratio = sys.argv[1:]
    study = wb.Study(task, storage=url, name=f"study-{ratio}")
    recipe = wb.Recipe(wb.Prune(ratio=float(ratio)), name="prune")
    summary = study.run([recipe], backends=["onnxruntime"], batch_sizes=[4, 2], threads=1)
    print(json.dumps({"finished": summary.finished, "spans": seen}))
"""


@pytest.mark.slow
def test_two_studies_in_one_database_never_time_at_once(shared_task, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_LOCK_DIR", str(tmp_path))
    url = f"sqlite:///{tmp_path}/s.db"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_TWO), shared_task.reference, url, ratio],
            stdout=subprocess.PIPE,
            text=True,
        )
        for ratio in ("0.3", "0.5")
    ]
    answers = [json.loads(process.communicate(timeout=280)[0]) for process in pair]
    assert [answer["finished"] for answer in answers] == [6, 6]
    alone, busy = ("timed", "warm-up", "footprint"), ("train", "export", "load", "quality")
    mine, theirs = ([span for span in answer["spans"] if span[0] in alone + busy] for answer in answers)
    assert {span[0] for span in mine} >= {"timed", "export"}
    overlap = [
        (one, other)
        for one in mine
        for other in theirs
        if (one[0] in alone or other[0] in alone) and one[1] < other[2] and other[1] < one[2]
    ]
    assert overlap == []
