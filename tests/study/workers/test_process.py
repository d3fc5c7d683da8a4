"""One child process: answers, endings in words, and a clean life."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from workbench.core.errors import Cancelled, StudyError, TrialFailed
from workbench.study.workers.policy import Care
from workbench.study.workers.process import Child, ChildError, OutOfTime, Stop


@pytest.fixture
def child(tmp_path):
    made = Child("time", {"backend": "onnxruntime"}, log=tmp_path / "child.log", stop=Stop())
    yield made
    made.kill()


def test_it_answers_and_ends_when_its_input_closes(child):
    answer = child.ask("memory")
    mib, reason = answer["rss"]
    assert (mib is None) == (reason is not None) and (mib is None or mib > 5)
    assert answer["allocator"] == [None, "No engine is open."] and answer["gpu"] is None
    child.close()
    assert not child.alive


def test_it_has_a_process_group_of_its_own(child):
    child.wait_ready()
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


def test_a_failed_command_is_an_error_with_the_child_s_own_words_and_the_child_goes_on(child):
    with pytest.raises(ChildError, match="is not an artefact"):
        child.ask("open", artifact="/nowhere", inputs="/nowhere", batch_size=1, threads=1)
    assert child.ask("memory")["event"] == "memory"


def test_a_kill_from_outside_is_told_by_the_name_of_the_signal(child):
    child.wait_ready()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(TrialFailed, match=r"ended by SIGKILL.*memory runs out"):
        child.ask("memory")


def test_a_kill_in_the_middle_of_work_is_noticed(child):
    child.wait_ready()
    os.kill(child.pid, signal.SIGSTOP)  # it cannot answer any more
    threading.Timer(0.3, os.kill, (child.pid, signal.SIGKILL)).start()
    with pytest.raises(TrialFailed, match="SIGKILL"):
        child.ask("memory")


def test_a_stop_from_another_thread_ends_the_waiting(tmp_path):
    stop = Stop()
    child = Child("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=stop)
    child.wait_ready()
    os.kill(child.pid, signal.SIGSTOP)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Cancelled):
        child.ask("memory")
    child.kill()
    assert not child.alive  # a stopped process ignores SIGTERM until SIGKILL comes


def test_the_deadline_ends_the_waiting(tmp_path):
    child = Child("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=Stop(time.monotonic() - 1))
    with pytest.raises(OutOfTime):
        child.ask("memory")
    child.kill()


def test_a_child_that_dies_at_once_quotes_its_last_words(tmp_path):
    child = Child("time", {}, log=tmp_path / "log", stop=Stop())  # the backend is missing: a KeyError
    with pytest.raises(TrialFailed, match=r"status 1.*KeyError"):
        child.ask("memory")
    child.kill()


def test_it_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from workbench.study.workers.process import Child, Stop\n"
        f"c = Child('time', {{'backend': 'onnxruntime'}}, log=Path({str(tmp_path / 'log')!r}), stop=Stop())\n"
        "c.wait_ready(); print(c.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.05)


def test_what_a_library_prints_cannot_break_the_protocol(tmp_path):
    code = (
        "import os, sys; from workbench.study import worker\n"
        "from workbench.study.workers.timing_main import TimedEngine\n"
        "old = TimedEngine.memory\n"
        "def loud(self, command, payload):\n"
        "    print('{\"event\": \"memory\"}'); os.system('echo from a shell'); return {'mib': 7, 'reason': None}\n"
        "TimedEngine.memory = loud\n"
        "sys.exit(worker.main(['time', '--events', sys.argv[1]]))"
    )
    from workbench.study.workers import process as room

    real = subprocess.Popen

    def replaced(command, **options):
        return real([sys.executable, "-c", code, command[-1]], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.subprocess, "Popen", replaced)
        made = Child("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=Stop())
    assert made.ask("memory")["mib"] == 7
    made.close()
    assert "from a shell" in (tmp_path / "log").read_text()


def test_a_timing_child_without_torch_imports_none():
    code = (
        "import sys; from workbench.study.workers.timing_main import TimedEngine\n"
        "import workbench.study.workers.main, workbench.artifact, workbench.engine.engine\n"
        "TimedEngine(sys.argv[1], print)\n"
        "print(sorted({'torch', 'pandas', 'sqlalchemy', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    for backend in ("onnxruntime", "openvino"):
        run = subprocess.run([sys.executable, "-c", code, backend], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]", backend


def test_a_child_that_gives_no_sign_for_too_long_is_killed_and_that_is_said(tmp_path):
    child = Child("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=Stop())
    child.wait_ready()
    child._care = Care(stall_s=0.5)  # only now: on a busy machine the import may take longer than that
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(TrialFailed, match=r"gave no sign for 0\.5 s.*stall_timeout_s"):
        child.ask("memory")
    assert not child.alive


def test_a_child_tells_which_phase_its_time_went_into(tmp_path):
    care = Care()
    child = Child("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=Stop(), care=care)
    begun = time.monotonic()
    assert "spans" not in child.ask("memory")
    ended = time.monotonic()
    child.close()
    assert list(care.phases.seconds()) == ["footprint"] and care.phases.covered_s() <= ended - begun


def test_a_process_that_cannot_be_started_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be started"):
        Child("time", {"backend": "onnxruntime"}, log=tmp_path / "file" / "log", stop=Stop())
