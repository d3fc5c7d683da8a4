"""What a cluster's run decides without a cluster: which worker may do what, what may start, what is sent."""

import dataclasses
from types import SimpleNamespace

import psutil
import pytest

import workbench as wb
from workbench.core.errors import ConfigError, StudyError, WorkbenchError
from workbench.core.machine import this_site
from workbench.study.cluster.blobs import Blob, artifact_blob, held_blobs, write_blob
from workbench.study.cluster.connection import Cluster
from workbench.study.cluster.worker_info import (
    ClusterWorker,
    WorkerInfo,
    able,
    by_site,
    describe_kinds,
    differences,
    shares_cores,
)
from workbench.study.execution.run import Run
from workbench.study.execution.task_queue import TaskQueue
from workbench.study.plan.shapes import OperatingPoint
from workbench.study.plan.trials import make_plan
from workbench.study.workers.process import CancelToken

PRUNE = wb.Recipe(wb.Prune(ratio=0.5), name="prune")
SITE = this_site()


def answer(site=SITE, *, host="one", cores=(0, 1), python="3.11.4"):
    return WorkerInfo(site, python, host, frozenset(cores), {}, {})


def node(name, **more):
    return ClusterWorker(f"tcp://{name}", name, answer(**more))


def other_site(**libraries):
    known = tuple({**dict(SITE.libraries), **libraries}.items())
    return dataclasses.replace(SITE, fingerprint="other", words="another machine", libraries=known)


# which workers


def test_only_workers_with_the_resource_time_and_gpus_are_left_to_who_asks():
    workers = {
        "plain": {"resources": {}},
        "cpu": {"resources": {"workbench": 1.0}},
        "gpu": {"resources": {"workbench": 1.0, "gpu": 1.0}},
    }
    assert able(workers, gpu=False) == ["cpu"] and able(workers, gpu=True) == ["gpu"]
    assert able({"gpu": workers["gpu"]}, gpu=False) == ["gpu"]  # nobody else is there
    assert able({"cpu": workers["cpu"]}, gpu=True) == []


def test_versions_that_matter_are_named_and_those_that_do_not_are_let_be():
    assert differences(SITE, "3.11.9", answer()) == []
    assert differences(SITE, "3.12.1", answer()) == ["Python 3.11 (here 3.12)"]
    torch = dict(SITE.libraries)["torch"]
    assert differences(SITE, "3.11.9", answer(other_site(torch="1.0"))) == [f"torch 1.0 (here {torch.split('+')[0]})"]
    assert differences(SITE, "3.11.9", answer(other_site(torch=f"{torch.split('+')[0]}+other"))) == []
    assert differences(SITE, "3.11.9", answer(other_site(onnxruntime="0.1"))) == []  # another kind, told apart by that


def test_kinds_of_machines_are_counted_and_what_sets_them_apart_is_said():
    alike, apart = [node("a"), node("b")], node("c", site=other_site(onnxruntime="0.1"))
    (line,) = describe_kinds(alike)
    assert line.startswith("2 workers on ") and SITE.fingerprint in line
    lines = describe_kinds([apart, *alike])
    assert len(lines) == 3 and "differ in onnxruntime" in lines[2] and "never compared" in lines[2]
    assert [len(group) for group in by_site([apart, *alike]).values()] == [2, 1]


def test_cores_are_shared_on_one_host_only_and_where_the_sets_meet():
    first = node("a", cores=(0, 1))
    assert shares_cores(first, [first, node("b", cores=(1, 2))])
    assert not shares_cores(first, [first, node("b", cores=(2, 3))])
    assert not shares_cores(first, [first, node("b", host="two", cores=(0, 1))])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": 8786}, "must be the address of a Dask scheduler"),
        ({"at": ""}, "must be the address of a Dask scheduler"),
        ({"at": "tcp://h:1", "gpu": 1}, "gpu must be True or False"),
        ({"at": "tcp://h:1", "timeout_s": 0}, "timeout_s must be a number of seconds above 0"),
        ({"at": "tcp://h:1", "tries": 0}, "tries must be an integer of at least 1"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_connected(options, words):
    with pytest.raises(ConfigError, match=words):
        Cluster(**options)


# what may start


@pytest.fixture
def plan():
    return make_plan("task", [PRUNE], ["torch-eager", "onnxruntime"], (4, 1), threads=1)


def names(units):
    return [(unit.kind, unit.trials[0].name, unit.point.batch if unit.point else None) for unit in units]


def test_a_plan_opens_step_by_step(plan):
    board = TaskQueue("here", plan, plan.trials, None, prepared=())
    assert names(board.ready()) == [("prepare", "float", None), ("prepare", "prune", None)]
    first, second = board.ready()
    board.start(first)
    assert names(board.ready()) == [("prepare", "prune", None)]
    board.end(first)
    assert names(board.ready()) == [("time", "float", 4), ("prepare", "prune", None)]  # the main question first
    board.start(second)
    board.end(second)
    (base,) = board.ready()
    board.start(base)
    assert board.ready() == []  # every other timing needs the baseline's own row
    board.end(base)
    assert names(board.ready()) == [("time", "prune", 4), ("time", "float", 1)]
    base = board.ready()[1]
    board.end(base)
    assert names(board.ready()) == [("time", "prune", 4)]  # its quality is measured there, once
    board.end(board.ready()[0])
    (last,) = board.ready()
    board.start(last)
    board.back(last)
    assert names(board.ready()) == [("time", "prune", 1)] and board.open == [last]
    board.end(last)
    assert board.open == []


def test_what_is_there_is_not_made_again_and_the_baseline_always_is_needed(plan):
    left = [t for t in plan.of(PRUNE) if t.batch_size == 1]
    assert names(TaskQueue("here", plan, left, None, prepared=()).ready()) == [
        ("prepare", "float", None),
        ("prepare", "prune", None),
    ]
    keys = {t.artifact_key for t in plan.trials}
    assert names(TaskQueue("here", plan, left, None, prepared=keys).ready()) == [("time", "prune", 1)]
    assert TaskQueue("here", plan, [], None, prepared=()).open == []


def test_a_recipe_that_cannot_be_prepared_takes_its_timings_along(plan):
    board = TaskQueue("here", plan, plan.trials, None, prepared=())
    board.end(board.ready()[1])
    board.drop(PRUNE)
    assert {unit.trials[0].name for unit in board.open} == {"float"}


def test_of_equals_the_artifact_that_is_near_goes_ahead_and_tiers_order_the_rest(plan):
    other = wb.Recipe(wb.Prune(ratio=0.25), name="other")
    plan = make_plan("task", [PRUNE, other], ["torch-eager"], (4, 1), threads=1)
    board = TaskQueue("here", plan, plan.trials, None, prepared={t.artifact_key for t in plan.trials})
    board.end(board.ready()[0])
    near = {t.artifact_key for t in plan.of(other)}
    assert names(board.ready())[:2] == [("time", "prune", 4), ("time", "other", 4)]
    assert names(board.ready(near=near))[:2] == [("time", "other", 4), ("time", "prune", 4)]
    for unit in board.ready()[:2]:
        board.end(unit)
    board.end(board.ready()[0])  # float at batch 1
    board.tiers = ({other.recipe_id},)
    assert names(board.ready()) == [("time", "other", 1), ("time", "prune", 1)]


def test_keys_belong_to_the_machine_that_will_run_and_artifacts_to_what_makes_them():
    here = make_plan("task", [PRUNE], ["torch-eager"], (4,), threads=1)
    there = make_plan("task", [PRUNE], ["torch-eager"], (4,), threads=1, site=other_site())
    assert [t.key for t in make_plan("task", [PRUNE], ["torch-eager"], (4,), threads=1, site=SITE).trials] == [
        t.key for t in here.trials
    ]
    assert not {t.key for t in here.trials} & {t.key for t in there.trials}
    assert [t.artifact_key for t in here.trials] == [t.artifact_key for t in there.trials]
    rows = there.rows("task", "fingerprint", site=other_site())
    assert {(row["fingerprint"], row["machine"]) for row in rows.values()} == {("other", "another machine")}
    assert here.baseline(OperatingPoint(4)).key in here.rows("task", "fingerprint")


# what is sent


def test_a_parcel_is_told_by_its_content_and_replaces_what_stood_there(tmp_path):
    study, worker = tmp_path / "study", tmp_path / "worker"
    (study / "artifacts" / "k-b1").mkdir(parents=True)
    (study / "artifacts" / "k" / "sub").mkdir(parents=True)
    (study / "artifacts" / "k" / "sub" / "w").write_bytes(b"new")
    (study / "artifacts" / "k-b1" / "w").write_bytes(b"one")
    (study / "artifacts" / "k.json").write_text("{}")
    (study / "artifacts" / "kk.json").write_text("not ours")
    blob = artifact_blob(study, "k")
    assert {path for path, _ in blob.files} == {"artifacts/k/sub/w", "artifacts/k-b1/w", "artifacts/k.json"}
    assert blob.size == 8 and held_blobs(worker) == {}
    (worker / "artifacts" / "k").mkdir(parents=True)
    (worker / "artifacts" / "k" / "old").write_bytes(b"old")
    write_blob(blob, worker)
    assert held_blobs(worker) == {"k": blob.digest}
    assert artifact_blob(worker, "k") == blob  # nothing of the old one is left
    assert Blob.of("k", {"a": b"1"}).digest != Blob.of("k", {"a": b"2"}).digest
    assert Blob.of("k", {"a": b"1", "b": b""}).digest != Blob.of("k", {"a": b"", "b": b"1"}).digest
    with pytest.raises(StudyError, match="cannot be read"):
        artifact_blob(study, "none")


# what Dask leaves behind


def test_what_a_nanny_sets_is_not_inherited_and_what_the_user_sets_is(monkeypatch, tmp_path):
    pytest.importorskip("distributed")
    from workbench.study.workers.policy import dask_variables
    from workbench.study.workers.process import WorkerProcess

    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert {"MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"} <= set(dask_variables())
    assert "MKL_NUM_THREADS" not in dask_variables()
    worker = WorkerProcess("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=CancelToken())
    try:
        worker.wait_ready()
        found = psutil.Process(worker.pid).environ()
        assert not {"MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"} & set(found) and found["MKL_NUM_THREADS"] == "3"
    finally:
        worker.close()


def test_a_run_that_an_error_stops_says_so_in_its_rows():
    calls = []
    session = SimpleNamespace(
        abandon=lambda **how: calls.append(how), notify=lambda *_, **__: None, rows=list, missing=lambda trials: trials
    )

    def full():
        raise WorkbenchError("The disk is full.")

    executor = SimpleNamespace(
        announce=lambda plans: "plan", make_ready=full, close=lambda *, kill: calls.append(f"closed, kill {kill}")
    )
    run = Run(session, None, executor, CancelToken(), {})
    with pytest.raises(StudyError, match=r"The run stopped: The disk is full\. What is complete is kept\."):
        run.work({"here": make_plan("task", [PRUNE], ["torch-eager"], (4,), threads=1)})
    reason = "The run stopped while it ran: The disk is full."
    assert calls == ["closed, kill True", {"state": "failed", "reason": reason}]
