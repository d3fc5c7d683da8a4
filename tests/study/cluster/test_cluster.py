"""A study on a real Dask cluster on this machine: all done once, whatever happens to its workers."""

import itertools
import json
import os
import platform
import signal
import socket
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from paths import SUPPORT

import workbench as wb
from workbench.cli.main import main
from workbench.core.cpu import allowed_cores
from workbench.core.errors import BackendUnavailable, ConfigError, PackageMissing, StudyError
from workbench.core.lazy import install_command
from workbench.core.machine import fingerprint_id
from workbench.study.results.schema import OPTIONAL

distributed = pytest.importorskip("distributed", reason=f"needs Dask: {install_command('cluster')}")

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
ANSWERS = f"{SUPPORT / 'answers.py'}:answers"
BACKENDS = ["torch-eager", "onnxruntime"]
PRUNE = wb.Recipe(wb.Prune(ratio=0.5), name="prune")
SLOW = wb.Recipe(wb.Prune(ratio=0.5), wb.Recover(epochs=500), name="slow")


@pytest.fixture
def cluster_of(tmp_path):
    """Return what starts a cluster of processes with the resource; it is closed at the end."""
    opened = []

    def start(n, resources=None):
        tags = {"workbench": 1} if resources is None else resources
        options = {"processes": True, "threads_per_worker": 1, "resources": tags, "dashboard_address": ":0"}
        cluster = distributed.LocalCluster(n_workers=n, local_directory=str(tmp_path / "dask"), **options)
        opened.append(cluster)
        return cluster

    yield start
    for cluster in opened:
        cluster.close()


def open_study(task, folder):
    return wb.Study(task, storage=f"sqlite:///{folder}/s.db")


def children():
    """Return the processes that a study's work runs in, of this process and of all its workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "workbench.study.workers.main" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(seconds=10):
    """Wait until no child is left: those of a killed worker need a moment to notice."""
    end = time.monotonic() + seconds
    while children() and time.monotonic() < end:
        time.sleep(0.1)
    return children() == []


def pids(cluster):
    return {str(name): nanny.pid for name, nanny in cluster.workers.items()}


def test_a_grid_is_done_once_although_a_worker_is_killed_in_the_middle(cluster_of, shared_task, tmp_path):
    cluster = cluster_of(3)
    events, killed = [], []

    def kill_one(event):
        events.append(event)
        if not killed and "timing prune" in event.message and "round" in event.message:
            killed.append(event.message.rpartition("(worker ")[2].rstrip(")"))
            os.kill(pids(cluster)[killed[0]], signal.SIGKILL)

    recipes = [PRUNE, wb.Recipe(wb.Prune(ratio=0.25), name="less")]
    with open_study(shared_task, tmp_path) as study:
        summary = study.run(
            recipes, backends=BACKENDS, batch_sizes=(4, 1), threads=1, cluster=cluster, progress=kill_one
        )
        rows = study.rows()
        assert killed and gone()
        assert (summary.finished, summary.failed, summary.open, summary.cancelled) == (12, 0, 0, False)
        assert len(rows) == 12 and {row["state"] for row in rows} == {"complete"}
        complete = [e.values["row"]["trial_key"] for e in events if e.values.get("row", {}).get("state") == "complete"]
        assert sorted(complete) == sorted(row["trial_key"] for row in rows)  # each was written once
        assert any(f"worker {killed[0]}" in e.message and "done again elsewhere" in e.message for e in events)
        done = [span.words for span in summary.spans if span.kind != "waiting"]
        assert len(done) == len(set(done)) == 9  # three recipes prepared, timed at two batch sizes

        sent = [(item.worker, item.digest) for item in summary.transfers]
        again = [pair for pair in set(sent) if sent.count(pair) > 1]
        assert {worker for worker, _ in again} <= set(killed)  # only who came back with an empty folder
        assert {item.name for item in summary.transfers if item.name != "task"} <= {row["artifact_key"] for row in rows}
        assert all((study.files / "artifacts" / row["artifact_key"]).is_dir() for row in rows)

        timings = sorted((span.started, span.ended) for span in summary.spans if span.kind == "time")
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(timings))
        for row in rows:
            assert row["fingerprint"] == fingerprint_id()
            assert row["notes"]["machine"].endswith(f"on {platform.node()}.")
            missing = [name for name, value in row.items() if value is None and name not in OPTIONAL]
            assert set(missing) <= set(row["notes"])
            with np.load(study.files / "samples" / row["samples"]) as stored:
                count = sum(name.startswith("arm_wait_") for name in stored.files)
                mine = [(stored[f"arm_{i}"], stored[f"arm_wait_{i}"]) for i in range(count)]
            free = [ms[waits <= 0.05 * ms] for ms, waits in mine]
            kept = [ms for ms in free if ms.size]
            middles = [np.median(ms) for ms in (kept if len(kept) >= 6 else [ms for ms, _ in mine])]
            assert row["latency_ms_p50"] == pytest.approx(np.median(middles))
        float_rows = [row for row in rows if row["recipe"] == "float"]
        assert [row["quality"] for row in float_rows] == pytest.approx([0.9] * 4)
        assert sum(row["baseline"] for row in rows) == 2 and study.best(quality_drop=1.0).met

        reused = study.run(recipes, backends=BACKENDS, batch_sizes=(4, 1), threads=1, cluster=cluster)
        assert (reused.finished, reused.reused, reused.spans, reused.transfers) == (0, 12, (), ())
        local = study.run(
            recipes, backends=BACKENDS, batch_sizes=(4, 1), threads=1
        )  # these are this machine's own trials
        assert (local.finished, local.reused) == (0, 12)


@pytest.mark.cores
@pytest.mark.skipif(len(allowed_cores()) < 2, reason="one core only: two workers cannot differ in the cores they have")
def test_machines_that_differ_each_have_a_baseline_and_are_never_compared(cluster_of, shared_task, tmp_path):
    cluster = cluster_of(2)
    psutil.Process(pids(cluster)["1"]).cpu_affinity(allowed_cores()[:1])  # another kind of machine: fewer cores
    with open_study(shared_task, tmp_path) as study:
        summary = study.run([PRUNE], backends=["torch-eager"], batch_sizes=(2,), threads=1, cluster=cluster)
        rows = study.rows()
        assert (summary.finished, summary.failed) == (4, 0)
        kinds = {row["fingerprint"] for row in rows}
        assert len(kinds) == 2 and fingerprint_id() in kinds
        for kind in kinds:
            mine = [row for row in rows if row["fingerprint"] == kind]
            assert next((row["recipe"], row["baseline"], row["speedup"]) for row in mine) == ("float", True, 1.0)
            assert len({row["notes"]["machine"] for row in mine}) == 1  # timed by the one worker of its kind
        assert len({row["notes"]["machine"] for row in rows}) == 2
        made = [span.words for span in summary.spans if span.kind == "prepare"]
        assert sorted(made) == ["preparing float", "preparing prune"]  # both kinds take the same artifacts
        assert "2 kinds of machine" in repr(summary) and "never compared" in repr(summary)
        best = study.best(quality_drop=1.0)
        assert best.row["fingerprint"] == fingerprint_id() and best.candidates == 2


def test_what_lies_on_a_worker_is_not_sent_again(cluster_of, shared_task, tmp_path):
    with distributed.Client(cluster_of(1), set_as_default=False) as client, open_study(shared_task, tmp_path) as study:
        first = study.run([PRUNE], backends=["onnxruntime"], batch_sizes=(4,), threads=1, cluster=client)
        assert [item.name for item in first.transfers] == ["task"]  # what it has made itself lies there
        second = study.run([PRUNE], backends=["onnxruntime"], batch_sizes=(4, 2), threads=1, cluster=client)
        assert (second.finished, second.reused) == (3, 3)
        assert {item.name for item in second.transfers} <= {"task"}
        assert client.status == "running"  # who gave a client keeps it


def test_the_command_runs_on_a_cluster(cluster_of, tmp_path, capsys):
    (tmp_path / "recipes.json").write_text(f"[{PRUNE.to_json()}]")
    address = cluster_of(1).scheduler_address
    where = ["--storage", f"sqlite:///{tmp_path}/s.db", "--cluster", address, "--json"]
    what = ["--recipes", str(tmp_path / "recipes.json"), "--backends", "onnxruntime", "--batch-sizes", "2"]
    assert main(["study", "--task", ANSWERS, *what, "--threads", "1", *where]) == 0
    out, err = capsys.readouterr()
    assert [row["state"] for row in json.loads(out)] == ["complete"] * 3
    assert "workbench: 1 worker on " in err and "(worker 0)" in err


def test_cancel_ends_what_the_workers_do_and_keeps_what_is_complete(cluster_of, shared_task, tmp_path):
    with open_study(shared_task, tmp_path) as study:

        def cancel_in_training(event):
            if event.values.get("step", {}).get("stage") == "recover":
                threading.Thread(target=study.cancel).start()

        asked = {"threads": 1, "cluster": cluster_of(1), "progress": cancel_in_training}
        job = study.start([SLOW], backends=["torch-eager"], batch_sizes=[2], **asked)
        summary = job.result(240)
        assert summary.cancelled and summary.open == 1 and gone(1)
        states = {row["recipe"]: row["state"] for row in study.rows()}
        assert states["slow"] == "cancelled"


def test_ctrl_c_ends_what_the_workers_do(cluster_of, shared_task, tmp_path):
    def interrupt(event):
        if event.values.get("step", {}).get("stage") == "recover":
            raise KeyboardInterrupt

    with open_study(shared_task, tmp_path) as study:
        with pytest.raises(KeyboardInterrupt):
            study.run(
                [SLOW], backends=["torch-eager"], batch_sizes=[2], threads=1, cluster=cluster_of(1), progress=interrupt
            )
        assert gone(1)
        assert "running" not in {row["state"] for row in study.rows()}


def test_units_stop_when_the_study_s_process_is_gone(cluster_of, shared_task, tmp_path):
    from workbench.study.cluster.connection import ClusterConnection

    client = distributed.Client(cluster_of(1), set_as_default=False)
    with open_study(shared_task, tmp_path) as study, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClusterConnection, "halt", lambda *_: client.close())  # it dies without a word

        def stop_in_training(event):
            if event.values.get("step", {}).get("stage") == "recover":
                study.cancel()

        summary = study.run(
            [SLOW], backends=["torch-eager"], batch_sizes=[2], threads=1, cluster=client, progress=stop_in_training
        )
        assert summary.cancelled and gone()


def test_a_unit_that_takes_every_worker_along_fails_with_the_reason_and_others_go_on(cluster_of, shared_task, tmp_path):
    cluster = cluster_of(2)

    def kill_who_trains(event):
        if event.values.get("step", {}).get("stage") == "recover":
            os.kill(pids(cluster)[event.message.rpartition("(worker ")[2].rstrip(")")], signal.SIGKILL)

    with open_study(shared_task, tmp_path) as study:
        asked = {"threads": 1, "cluster": wb.study.Cluster(cluster, tries=2), "progress": kill_who_trains}
        summary = study.run([SLOW, PRUNE], backends=["torch-eager"], batch_sizes=[2], **asked)
        rows = {row["recipe"]: row for row in study.rows()}
        assert (summary.finished, summary.failed) == (2, 1)
        assert rows["slow"]["state"] == "failed" and rows["prune"]["state"] == "complete"
        assert "Given up after 2 tries" in rows["slow"]["error"] and "ended while it ran this" in rows["slow"]["error"]
        assert gone()


def test_a_recipe_that_fails_is_not_tried_on_another_worker(cluster_of, shared_task, tmp_path):
    impossible = wb.Recipe(wb.Factorize(ratio=1.0), name="impossible")
    with open_study(shared_task, tmp_path) as study:
        summary = study.run([impossible], backends=["torch-eager"], batch_sizes=[2], threads=1, cluster=cluster_of(2))
        rows = {row["recipe"]: row for row in study.rows()}
        assert rows["float"]["state"] == "complete" and rows["impossible"]["state"] == "failed"
        assert "could not be prepared" in rows["impossible"]["error"]
        assert "touched no layer" in rows["impossible"]["error"]
        assert [span.words for span in summary.spans if span.kind == "prepare"].count("preparing impossible") == 1


def test_a_budget_that_is_too_short_leaves_the_rest_waiting(cluster_of, shared_task, tmp_path):
    with open_study(shared_task, tmp_path) as study:
        summary = study.run(
            [PRUNE], backends=["torch-eager"], batch_sizes=[2], threads=1, cluster=cluster_of(1), budget_s=3
        )
        assert summary.finished == 0 and summary.open == 2 and not summary.cancelled
        assert any("budget" in line for line in summary.cut) and gone(1)


def test_what_cannot_be_done_is_said_before_work_starts(cluster_of, shared_task, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    untagged = cluster_of(1, {"other": 1})
    with open_study(shared_task, tmp_path) as study:

        def refused(kind, words, cluster, *, backends=("torch-eager",), **more):
            with pytest.raises(kind, match=words):
                study.run([PRUNE], backends=backends, batch_sizes=[2], threads=1, cluster=cluster, **more)

        refused(ConfigError, "no Dask scheduler answers", wb.study.Cluster(nobody, timeout_s=1))
        refused(ConfigError, "no Dask scheduler answers", wb.study.Cluster("nonsense://x", timeout_s=1))
        refused(ConfigError, "none of its 1 workers has the resource 'workbench'.*dask worker", untagged)
        tagged = cluster_of(1)
        refused(ConfigError, "has the resource 'workbench' and 'gpu'", wb.study.Cluster(tagged, gpu=True))
        refused(StudyError, "monitor watches this machine", tagged, monitor=wb.Monitor())
        with monkeypatch.context() as patch:
            patch.setattr("workbench.study.cluster.connection.platform.python_version", lambda: "3.99.0")
            refused(ConfigError, r"Worker 0 on .* has Python 3\.1\d \(here 3\.99\)", tagged)
        with monkeypatch.context() as patch:
            patch.setattr("workbench.study.cluster.connection.this_site", lambda: other_torch())
            refused(ConfigError, r"has torch .* \(here 0\.1\)", tagged)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "distributed", None)
            refused(PackageMissing, r"needs the package 'distributed'.*\[cluster\]", "tcp://127.0.0.1:1")
        with monkeypatch.context() as patch:  # a backend of a package that this process has and the worker lacks
            patch.setattr("workbench.engine.names.is_backend", lambda _: True)
            refused(BackendUnavailable, "'nonesuch' cannot run on worker 0", tagged, backends=["nonesuch"])
        assert study.rows() == [] and children() == []


def other_torch():
    import dataclasses

    from workbench.core.machine import this_site

    site = this_site()
    return dataclasses.replace(site, libraries=tuple({**dict(site.libraries), "torch": "0.1"}.items()))
