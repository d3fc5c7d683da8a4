"""A full disk, a locked database: told in words, what is finished is kept, and the next run goes on from there."""

import contextlib
import os
import sqlite3
import subprocess
import threading
import time

import pytest

import workbench as wb
from workbench.core.errors import StudyError

PRUNE = wb.Recipe(wb.Prune(ratio=0.5), name="prune")
SMALL = "8m"


@pytest.fixture
def small_disk(tmp_path):
    """Return the folder of a file system of a few MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", folder], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Take all the space of a file system that is left, and return the file that does."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(2**16))
    with open(ballast, "ab", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(2**8))
    assert os.statvfs(folder).f_bavail == 0
    return ballast


def storage(tmp_path, small, *, what):
    """Return the URL of a study of which only one part lies on the small disk."""
    if what == "everything":
        return f"sqlite:///{small}/s.db"
    if what == "database":
        home = small
        (tmp_path / "roomy").mkdir()
        (small / "s_files").symlink_to(tmp_path / "roomy")
    else:
        home = tmp_path
        (tmp_path / "s_files").mkdir()
        (small / what).mkdir()
        (tmp_path / "s_files" / what).symlink_to(small / what)
    return f"sqlite:///{home}/s.db"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["everything", "database", "artifacts", "samples", "outputs"])
def test_a_full_disk_ends_the_run_in_words_and_the_next_one_takes_up_what_is_left(
    shared_task, tmp_path, small_disk, what
):
    ballast = []

    def fill_once(event):
        row = event.values.get("row")
        if row and row["state"] == "complete" and not ballast:
            ballast.append(fill(small_disk))

    url = storage(tmp_path, small_disk, what=what)
    with wb.Study(shared_task, storage=url) as study:
        with pytest.raises(StudyError, match=r"full|No space left"):
            study.run([PRUNE], backends=["onnxruntime"], batch_sizes=[2], threads=1, progress=fill_once)
        ballast[0].unlink()
        before = {row["trial_key"]: row for row in study.rows()}
        kept = [row for row in before.values() if row["state"] == "complete"]
        assert [(row["recipe"], row["backend"]) for row in kept][:1] == [("float", "torch-eager")]
        assert len(kept) < 3
    with wb.Study(shared_task, storage=url) as study:
        summary = study.run([PRUNE], backends=["onnxruntime"], batch_sizes=[2], threads=1)
        assert (summary.finished, summary.reused, summary.failed) == (3 - len(kept), len(kept), 0)
        after = {row["trial_key"]: row for row in study.rows()}
    assert {row["state"] for row in after.values()} == {"complete"}
    assert all(after[row["trial_key"]]["samples"] == row["samples"] for row in kept)


@contextlib.contextmanager
def locked(path):
    """Hold the write lock of a SQLite file."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_a_database_that_stays_locked_is_told_with_what_to_do(shared_task, tmp_path):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db?timeout=0.2") as study:
        with locked(tmp_path / "s.db"), pytest.raises(StudyError, match=r"locked.*Another program keeps it locked"):
            study.run([PRUNE], backends=["onnxruntime"], batch_sizes=[2], threads=1)
        assert study.rows() == []


@pytest.mark.slow
def test_a_database_that_is_locked_in_the_middle_of_a_run_loses_nothing_that_is_finished(shared_task, tmp_path):
    held = contextlib.ExitStack()

    def lock_once(event):
        row = event.values.get("row")
        if row and row["state"] == "complete" and not held._exit_callbacks:
            held.enter_context(locked(tmp_path / "s.db"))

    url = f"sqlite:///{tmp_path}/s.db?timeout=0.2"
    with wb.Study(shared_task, storage=url) as study:
        with held, pytest.raises(StudyError, match="locked"):
            study.run([PRUNE], backends=["onnxruntime"], batch_sizes=[2], threads=1, progress=lock_once)
        assert [row["state"] for row in study.rows()].count("complete") == 1


def test_a_lock_that_ends_in_time_is_waited_for(shared_task, tmp_path):
    with wb.Study(shared_task, storage=f"sqlite:///{tmp_path}/s.db") as study:
        lock = locked(tmp_path / "s.db")
        lock.__enter__()
        threading.Timer(1.0, lock.__exit__, (None, None, None)).start()
        begun = time.monotonic()
        study._store.set_setting(study.name, "quality_drop", 0.02)
        assert time.monotonic() - begun > 0.5  # it was locked
        assert study._store.setting(study.name, "quality_drop") == 0.02
