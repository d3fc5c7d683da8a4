"""The database: claims, stale owners, two runs at once, and refusals in words."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rows import small_row
from sqlalchemy.exc import IntegrityError

from workbench.core.errors import StudyError
from workbench.study.storage.database import SETTINGS, STALE_S, Store, is_stale, new_owner

KEYS = [f"key{i}" for i in range(20)]


def rows():
    return {key: small_row(recipe=key) for key in KEYS}


@pytest.fixture
def store(tmp_path):
    with_rows = Store(f"sqlite:///{tmp_path}/s.db")
    with_rows.add("study", rows())
    yield with_rows
    with_rows.close()


def test_rows_come_back_in_the_planned_order_and_are_added_once(store):
    changed = rows()
    changed["key0"]["recipe"] = "another"
    store.add("study", changed)
    found = store.load("study")
    assert list(found) == KEYS
    assert found["key0"].row["recipe"] == "key0"
    assert store.load("other study") == {}


def test_a_row_that_lacks_a_column_is_refused(store):
    row = {name: value for name, value in small_row().items() if name != "noise_floor"}
    with store._begin() as connection:
        connection.exec_driver_sql("UPDATE workbench_trials SET row = ? WHERE trial_key = 'key1'", (json.dumps(row),))
    with pytest.raises(StudyError, match=r"'key1'.*noise_floor"):
        store.load("study", ["key1"])


def test_a_claimed_trial_is_nobody_elses_until_released(store):
    first, second = new_owner(), new_owner()
    assert store.claim("study", KEYS[:3], first) == set(KEYS[:3])
    assert store.claim("study", KEYS[:4], second) == {KEYS[3]}
    store.release("study", first)
    assert store.claim("study", KEYS[:3], second) == set(KEYS[:3])


def test_a_complete_trial_is_never_taken(store):
    owner = new_owner()
    store.claim("study", KEYS[:1], owner)
    store.save("study", KEYS[0], small_row(state="complete", quality=0.5), owner, release=True)
    assert store.claim("study", KEYS[:1], new_owner()) == set()
    assert store.load("study", KEYS[:1])[KEYS[0]].row["quality"] == 0.5


def test_threads_that_claim_at_once_share_the_trials_without_overlap(tmp_path, store):
    taken = [set() for _ in range(4)]
    stores = [Store(f"sqlite:///{tmp_path}/s.db") for _ in taken]
    barrier = threading.Barrier(len(taken))

    def work(i):
        barrier.wait()
        taken[i] = stores[i].claim("study", KEYS, new_owner())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(taken))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in stores:
        other.close()
    assert set().union(*taken) == set(KEYS)
    assert sum(map(len, taken)) == len(KEYS)


def test_a_dead_process_on_this_host_loses_its_claims_at_once(store):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = new_owner().replace(f":{os.getpid()}:", f":{dead.pid}:")
    store.claim("study", KEYS[:2], owner)
    assert store.claim("study", KEYS[:2], new_owner()) == set(KEYS[:2])


def test_a_run_that_gave_no_sign_is_stale_and_cannot_write_any_more(store):
    silent = "elsewhere:1:abc"
    store.claim("study", KEYS[:1], silent)
    assert not is_stale(silent, store.load("study")[KEYS[0]].heartbeat)
    with sqlite3.connect(store.url.removeprefix("sqlite:///")) as raw:
        raw.execute("UPDATE workbench_trials SET heartbeat = heartbeat - ?", (STALE_S + 5,))
    assert store.claim("study", KEYS[:1], new_owner()) == {KEYS[0]}
    with pytest.raises(StudyError, match="taken over"):
        store.save("study", KEYS[0], small_row(), silent, release=True)


def test_a_heartbeat_keeps_a_claim(store):
    owner = "elsewhere:1:abc"
    store.claim("study", KEYS[:1], owner)
    before = store.load("study")[KEYS[0]].heartbeat
    store.beat(owner)
    assert store.load("study")[KEYS[0]].heartbeat >= before


def test_settings_are_kept_per_study(store):
    store.set_setting("study", "limit", 0.01)
    store.set_setting("study", "limit", {"a": [1]})
    assert store.setting("study", "limit") == {"a": [1]}
    assert store.setting("other", "limit") is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("study.db", "sqlite:///study.db"),
        ("oracel://host/x", "unknown kind of database"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///{tmp}", "is a folder"),
        ("sqlite:///{tmp}/file.txt/s.db", "Cannot write to the folder"),
        ("sqlite:///{tmp}/file.txt", "not a database"),
    ],
)
def test_an_address_that_cannot_work_is_refused_in_words(tmp_path, url, words):
    (tmp_path / "file.txt").write_text("this is text, and long enough to be no empty database " * 40)
    with pytest.raises(StudyError, match=words):
        Store(url.format(tmp=tmp_path))


@pytest.mark.parametrize(("url", "words"), [(None, "None"), (3, r"3 \(int\)"), ("", "''"), (Path("a/s.db"), "a/s.db")])
def test_an_address_that_is_no_text_is_refused_with_one_that_is(url, words):
    file = "sqlite:///a/s.db" if isinstance(url, Path) else "sqlite:///study.db"
    with pytest.raises(StudyError, match=f"must be a database URL as text, got .*{words}.* write '{file}'"):
        Store(url)


@pytest.mark.parametrize(("version", "words"), [(99, "schema 1, got 99"), (0, "schema 1, got 0")])
def test_another_schema_is_refused_and_left_as_it_is(tmp_path, version, words):
    path = tmp_path / "s.db"
    Store(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE workbench_settings SET value = ? WHERE name = 'schema_version'", (json.dumps(version),))
    with pytest.raises(StudyError, match=words):
        Store(f"sqlite:///{path}")


def test_a_database_of_somebody_else_gets_our_tables_beside_theirs(tmp_path):
    path = tmp_path / "optuna.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE trials (trial_id INTEGER)")
        raw.execute("INSERT INTO trials VALUES (7)")
    store = Store(f"sqlite:///{path}")
    store.add("study", rows())
    store.close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT trial_id FROM trials").fetchall() == [(7,)]


def test_a_closed_store_says_so(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 's.db'}")
    store.close()
    with pytest.raises(StudyError, match=r"This study is closed\. Open it again"):
        store.studies()


def test_what_is_not_finite_is_kept_as_none(store):
    owner = new_owner()
    store.claim("study", KEYS[:1], owner)
    row = {**rows()[KEYS[0]], "steps": [{"quality_after": float("nan"), "layers": [{"x": float("inf")}]}]}
    store.save("study", KEYS[0], row, owner, release=True)
    assert store.load("study")[KEYS[0]].row["steps"] == [{"quality_after": None, "layers": [{"x": None}]}]


def test_a_process_of_another_container_on_this_host_lives_as_long_as_it_gives_signs(monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, _, _ = new_owner().rpartition(":")[0].rpartition(":")
    assert is_stale(f"{host}:{dead.pid}:x", time.time())
    assert not is_stale(f"{host}0:{dead.pid}:x", time.time())
    assert is_stale(f"{host}0:{dead.pid}:x", time.time() - STALE_S - 5)


def test_a_setting_that_another_run_inserts_at_once_is_changed(store, monkeypatch):
    begin, failed = store._begin, []

    def late():
        if not failed:
            failed.append(True)
            with begin() as connection:
                connection.execute(SETTINGS.insert().values(study="study", name="limit", value="1"))
            raise IntegrityError("INSERT", {}, Exception("UNIQUE"))
        return begin()

    monkeypatch.setattr(store, "_begin", late)
    store.set_setting("study", "limit", 2)
    assert store.setting("study", "limit") == 2
