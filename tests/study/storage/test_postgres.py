"""A team's database: the same store on a real PostgreSQL, started for these tests from the system's packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from rows import small_row

import workbench as wb
from workbench.core.errors import StudyError
from workbench.study.storage.database import Store, new_owner

pytest.importorskip("psycopg", reason='psycopg is not installed: pip install "inference-workbench[postgres]"')
KEYS = [f"key{i}" for i in range(20)]


def find(name):
    """Return a program of PostgreSQL, which Debian keeps outside of the path."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(newest[-1]) if newest else shutil.which(name)


class Server:
    """A cluster of its own in a folder, which listens on this machine only."""

    def __init__(self, folder):
        self.data, self.sockets = folder / "data", folder / "sockets"
        self.sockets.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(folder, "postgres")
            shutil.chown(self.sockets, "postgres")
            for above in (folder, *folder.parents):
                if above.stat().st_uid == 0 and above != Path("/"):
                    above.chmod(above.stat().st_mode | 0o011)
            self.user = ["runuser", "-u", "postgres", "--"]
        self._do("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    def _do(self, program, *arguments):
        command = [*self.user, find(program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
        assert done.returncode == 0, f"{program}: {done.stdout} {done.stderr}"

    def start(self):
        options = f"-p {self.port} -k {self.sockets} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._do("pg_ctl", "-D", self.data, "-l", self.data / "log", "-o", options, "-w", "start")

    def stop(self):
        self._do("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    def url(self, name="postgres"):
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if find("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and runuser is missing: apt-get install util-linux")
    running = Server(tmp_path_factory.mktemp("postgres"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def url(server):
    """Return an empty database."""
    import psycopg

    name = f"d{os.urandom(6).hex()}"
    with psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url(name)


@pytest.fixture
def store(url):
    opened = Store(url)
    opened.add("study", {key: small_row(recipe=key) for key in KEYS})
    yield opened
    opened.close()


def test_rows_come_back_in_order_and_are_added_once(store, url):
    again = Store(url)
    again.add("study", {"key0": small_row(recipe="another")})
    found = again.load("study")
    again.close()
    assert list(found) == KEYS and found["key0"].row["recipe"] == "key0"


def test_runs_that_claim_at_once_share_the_trials_without_overlap(store, url):
    stores, taken = [Store(url) for _ in range(4)], [set() for _ in range(4)]
    barrier = threading.Barrier(4)

    def work(i):
        barrier.wait()
        taken[i] = stores[i].claim("study", KEYS, new_owner())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in stores:
        other.close()
    assert set().union(*taken) == set(KEYS) and sum(map(len, taken)) == len(KEYS)


def test_two_that_make_the_tables_at_once_both_succeed(url):
    barrier, failed = threading.Barrier(6), []

    def work():
        barrier.wait()
        try:
            Store(url).close()
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_trial_of_a_run_that_is_gone_is_taken_up_by_another(store):
    gone, heir = "elsewhere:1:abc", new_owner()
    assert store.claim("study", KEYS[:1], gone) == {KEYS[0]}
    assert store.claim("study", KEYS[:1], heir) == set()  # it may still live
    with store._begin() as connection:
        connection.exec_driver_sql(
            "UPDATE workbench_trials SET heartbeat = heartbeat - 60 WHERE owner = 'elsewhere:1:abc'"
        )
    assert store.claim("study", KEYS[:1], heir) == {KEYS[0]}
    with pytest.raises(StudyError, match="taken over"):
        store.save("study", KEYS[0], small_row(recipe="a"), gone, release=True)


def test_a_server_that_is_gone_is_told_in_words_and_what_was_written_is_there_again(server, url):
    store = Store(url)
    store.add("study", {"a": small_row(recipe="a")})
    server.stop()
    try:
        with pytest.raises(StudyError, match="cannot be used"):
            store.load("study")
    finally:
        server.start()
    assert list(store.load("study")) == ["a"]
    store.close()


@pytest.mark.slow
def test_a_study_runs_and_resumes_on_it(url, shared_task):
    options = {"backends": ["onnxruntime"], "batch_sizes": [4]}
    with wb.Study(shared_task, storage=url) as study:
        first = study.run([wb.Recipe()], **options)
        rows = study.rows()
    assert first.finished == len(rows) > 0 and all(row["state"] == "complete" for row in rows)
    with wb.Study(shared_task, storage=url) as study:
        again = study.run([wb.Recipe()], **options)
    assert (again.finished, again.reused) == (0, len(rows))
