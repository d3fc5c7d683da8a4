"""The turn between processes: one times alone, several prepare side by side, and the dead hold nothing."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from workbench.core.errors import Cancelled
from workbench.study.execution.machine_lock import NAME, lock_folder, machine_lock
from workbench.study.workers.process import CancelToken, OutOfTime

_HOLD = """
    import sys
    from pathlib import Path
    from workbench.study.workers.process import CancelToken
    from workbench.study.execution.machine_lock import machine_lock
    exclusive, folder = sys.argv[2] == "exclusive", Path(sys.argv[1])
    with machine_lock(exclusive=exclusive, stop=CancelToken(), notify=lambda words: None, folder=folder):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Return a function that starts a process which has the turn until its input closes."""
    made = []

    def start(how):
        command = [sys.executable, "-c", textwrap.dedent(_HOLD), str(tmp_path), how]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def taken(folder, *, exclusive):
    """Say whether a turn can be had at once; one that must wait is told to stop."""
    stop, said = CancelToken(), []

    def notify(words):
        said.append(words)
        stop.set()

    try:
        with machine_lock(exclusive=exclusive, stop=stop, notify=notify, folder=folder):
            return True
    except Cancelled:
        assert "another study on this machine" in said[0]
        return False


@pytest.mark.parametrize(
    ("theirs", "mine", "expected"),
    [("exclusive", True, False), ("exclusive", False, False), ("beside", True, False), ("beside", False, True)],
)
def test_only_those_who_do_not_time_have_a_turn_together(hold, tmp_path, theirs, mine, expected):
    hold(theirs)
    assert taken(tmp_path, exclusive=mine) is expected


def test_the_turn_of_a_killed_process_is_free_at_once(hold, tmp_path):
    process = hold("exclusive")
    assert not taken(tmp_path, exclusive=True)
    process.kill()
    process.wait()
    assert taken(tmp_path, exclusive=True)


def test_the_turn_is_free_after_the_block_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), machine_lock(exclusive=True, stop=CancelToken(), notify=print, folder=tmp_path):
        raise KeyError
    assert taken(tmp_path, exclusive=True)


def test_waiting_ends_when_the_other_is_done(hold, tmp_path):
    process, said = hold("exclusive"), []

    def notify(words):
        said.append(words)
        process.stdin.close()

    with machine_lock(exclusive=True, stop=CancelToken(), notify=notify, folder=tmp_path):
        assert len(said) == 1  # once, however often it looked


def test_waiting_ends_with_the_budget(hold, tmp_path):
    hold("exclusive")
    waiter = machine_lock(
        exclusive=True, stop=CancelToken(time.monotonic() + 0.3), notify=lambda words: None, folder=tmp_path
    )
    with pytest.raises(OutOfTime), waiter:
        pass


def test_who_has_waited_comes_before_one_who_wants_another_turn(tmp_path):
    """Two threads that take turns as fast as they can: neither gets two while the other waits."""
    order, waits, free = [], threading.Event(), threading.Event()

    def greedy():
        with machine_lock(exclusive=True, stop=CancelToken(), notify=lambda words: None, folder=tmp_path):
            free.set()
            waits.wait(30)
        with machine_lock(exclusive=True, stop=CancelToken(), notify=lambda words: None, folder=tmp_path):
            order.append("greedy")

    def patient():
        free.wait(30)
        with machine_lock(exclusive=True, stop=CancelToken(), notify=lambda words: waits.set(), folder=tmp_path):
            order.append("patient")

    threads = [threading.Thread(target=work) for work in (greedy, patient)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert order == ["patient", "greedy"]


def test_where_no_lock_can_be_had_work_goes_on_and_that_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    with machine_lock(exclusive=True, stop=CancelToken(), notify=said.append, folder=tmp_path / "file" / "folder"):
        assert "No machine lock" in said[0]


def test_a_file_system_without_locks_lets_the_work_go_on(tmp_path, monkeypatch):
    def unable(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unable)
    said = []
    with machine_lock(exclusive=True, stop=CancelToken(), notify=said.append, folder=tmp_path) as wanted:
        assert not wanted()
    assert len(said) == 1 and "(No locks available)" in said[0]


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    (tmp_path / f"{NAME}.queue").symlink_to(victim)
    said = []
    with machine_lock(exclusive=True, stop=CancelToken(), notify=said.append, folder=tmp_path):
        assert said and not victim.exists()


def test_the_lock_can_be_read_by_every_user_whatever_the_umask(tmp_path):
    old = os.umask(0o077)
    try:
        taken(tmp_path, exclusive=True)
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_the_folder_is_one_for_the_machine_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_LOCK_DIR", str(tmp_path))
    assert lock_folder() == tmp_path
    monkeypatch.delenv("WORKBENCH_LOCK_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert lock_folder() != tmp_path
