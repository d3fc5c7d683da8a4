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
from workbench.study.workers.policy import WorkerPolicy
from workbench.study.workers.process import CancelToken, OutOfTime, WorkerError, WorkerProcess


@pytest.fixture
def worker(tmp_path):
    made = WorkerProcess("time", {"backend": "onnxruntime"}, log=tmp_path / "child.log", stop=CancelToken())
    yield made
    made.kill()


def test_it_answers_and_ends_when_its_input_closes(worker):
    answer = worker.ask("memory")
    mib, reason = answer["rss"]
    assert (mib is None) == (reason is not None) and (mib is None or mib > 5)
    assert answer["allocator"] == [None, "No engine is open."] and answer["gpu"] is None
    worker.close()
    assert not worker.alive


def test_it_has_a_process_group_of_its_own(worker):
    worker.wait_ready()
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)


def test_a_failed_command_is_an_error_with_the_child_s_own_words_and_the_child_goes_on(worker):
    with pytest.raises(WorkerError, match="is not an artifact"):
        worker.ask("open", artifact="/nowhere", inputs="/nowhere", batch_size=1, threads=1)
    assert worker.ask("memory")["event"] == "memory"


def test_a_kill_from_outside_is_told_by_the_name_of_the_signal(worker):
    worker.wait_ready()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(TrialFailed, match=r"ended by SIGKILL.*memory runs out"):
        worker.ask("memory")


def test_a_kill_in_the_middle_of_work_is_noticed(worker):
    worker.wait_ready()
    os.kill(worker.pid, signal.SIGSTOP)  # it cannot answer any more
    threading.Timer(0.3, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(TrialFailed, match="SIGKILL"):
        worker.ask("memory")


@pytest.mark.slow
def test_a_stop_from_another_thread_ends_the_waiting(tmp_path):
    stop = CancelToken()
    worker = WorkerProcess("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=stop)
    worker.wait_ready()
    os.kill(worker.pid, signal.SIGSTOP)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Cancelled):
        worker.ask("memory")
    worker.kill()
    assert not worker.alive  # a stopped process ignores SIGTERM until SIGKILL comes


def test_the_deadline_ends_the_waiting(tmp_path):
    worker = WorkerProcess(
        "time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=CancelToken(time.monotonic() - 1)
    )
    with pytest.raises(OutOfTime):
        worker.ask("memory")
    worker.kill()


def test_a_child_that_dies_at_once_quotes_its_last_words(tmp_path):
    worker = WorkerProcess("time", {}, log=tmp_path / "log", stop=CancelToken())  # the backend is missing: a KeyError
    with pytest.raises(TrialFailed, match=r"status 1.*KeyError"):
        worker.ask("memory")
    worker.kill()


def test_it_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from workbench.study.workers.process import WorkerProcess, CancelToken\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        "c = WorkerProcess('time', {'backend': 'onnxruntime'}, log=log, stop=CancelToken())\n"
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
        "import os, sys; from workbench.study.workers import main\n"
        "from workbench.study.workers.timing_main import TimingWorker\n"
        "old = TimingWorker.memory\n"
        "def loud(self, command, payload):\n"
        "    print('{\"event\": \"memory\"}'); os.system('echo from a shell'); return {'mib': 7, 'reason': None}\n"
        "TimingWorker.memory = loud\n"
        "sys.exit(main.main(['time', '--events', sys.argv[1]]))"
    )
    from workbench.study.workers import process as room

    real = subprocess.Popen

    def replaced(command, **options):
        return real([sys.executable, "-c", code, command[-1]], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.subprocess, "Popen", replaced)
        made = WorkerProcess("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=CancelToken())
    assert made.ask("memory")["mib"] == 7
    made.close()
    assert "from a shell" in (tmp_path / "log").read_text()


def test_a_timing_child_without_torch_imports_none():
    code = (
        "import sys; from workbench.study.workers.timing_main import TimingWorker\n"
        "import workbench.study.workers.main, workbench.artifact, workbench.engine.engine\n"
        "TimingWorker(sys.argv[1], print)\n"
        "print(sorted({'torch', 'pandas', 'sqlalchemy', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    for backend in ("onnxruntime", "openvino"):
        run = subprocess.run([sys.executable, "-c", code, backend], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]", backend


@pytest.mark.slow
def test_a_child_that_gives_no_sign_for_too_long_is_killed_and_that_is_said(tmp_path):
    worker = WorkerProcess("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=CancelToken())
    worker.wait_ready()
    worker._policy = WorkerPolicy(stall_s=0.5)  # only now: on a busy machine the import may take longer than that
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(TrialFailed, match=r"no progress for 0\.5 s.*stall_timeout_s"):
        worker.ask("memory")
    assert not worker.alive


def test_a_child_tells_which_phase_its_time_went_into(tmp_path):
    policy = WorkerPolicy()
    worker = WorkerProcess("time", {"backend": "onnxruntime"}, log=tmp_path / "log", stop=CancelToken(), policy=policy)
    begun = time.monotonic()
    assert "spans" not in worker.ask("memory")
    ended = time.monotonic()
    worker.close()
    assert list(policy.phases.seconds()) == ["footprint"] and policy.phases.covered_s() <= ended - begun


def test_a_process_that_cannot_be_started_is_told_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be started"):
        WorkerProcess("time", {"backend": "onnxruntime"}, log=tmp_path / "file" / "log", stop=CancelToken())
