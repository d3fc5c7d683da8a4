"""Finished beginnings of recipes on disk: each is made once, across processes, kills and damage."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from paths import SUPPORT
from torch import nn

import workbench as wb
from workbench.artifact import PrefixCache
from workbench.artifact.cache import code_digest
from workbench.core.errors import Cancelled, ConfigError

FIXTURES = SUPPORT
SPEC = f"{FIXTURES / 'tiny.py'}:tiny"
PRUNE = wb.Recipe(wb.Prune(ratio=0.5))
CHAIN = wb.Recipe(*PRUNE.steps, wb.Recover(epochs=0.5, allow_untouched=True))


def load_grid():
    spec = importlib.util.spec_from_file_location("grid_fixture", FIXTURES / "grid.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRID = load_grid()


@pytest.fixture(scope="module")
def task():
    return wb.load_task(SPEC)


@pytest.fixture
def watch():
    watching = GRID.Watch()
    yield watching
    watching.close()


@pytest.fixture(scope="module")
def filled(task, tmp_path_factory):
    """Return a folder that holds the whole grid, what was done to fill it, and the variants."""
    task.check()  # this task's float model is trained when it is first built
    folder, watching = tmp_path_factory.mktemp("cache") / "grid", GRID.Watch()
    try:
        variants = [recipe.apply(task, cache=PrefixCache(task, folder)) for recipe in GRID.grid()]
    finally:
        watching.close()
    return folder, watching, variants


def run_grid(folder, *more):
    command = [sys.executable, str(FIXTURES / "grid.py"), SPEC, str(folder), *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answer(process):
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_a_grid_of_24_makes_each_distinct_beginning_once(filled, task):
    folder, watching, variants = filled
    wanted = GRID.prefixes()
    assert len(GRID.grid()) == len(variants) == 24 and len(wanted) == 26
    assert collections.Counter(watching.applied) == dict.fromkeys(wanted, 1)
    assert watching.steps == GRID.optimizer_steps(task, list(wanted.values())) > 40
    assert set(PrefixCache(task, folder)) == set(wanted)
    assert [v.recipe for v in variants] == GRID.grid()


def without_pace(report):
    """Return a report as values, without its seconds and the pace of its training."""
    values = report.to_dict() | {"seconds": 0}
    return values | {"notes": [note for note in values["notes"] if "samples/s" not in note]}


@pytest.mark.slow
def test_what_comes_from_the_cache_is_exactly_what_would_have_been_made(filled, task):
    folder, _, variants = filled
    cache = PrefixCache(task, folder)
    for position in (3, 14, 22):
        recipe = GRID.grid()[position]
        for made in (variants[position], recipe.apply(task, cache=cache)):
            fresh = recipe.apply(task)
            assert fresh.reused_steps == 0
            assert (made.recipe, made.params, made.macs, made.quality) == (
                fresh.recipe,
                fresh.params,
                fresh.macs,
                fresh.quality,
            )
            assert [without_pace(r) for r in made.reports] == [without_pace(r) for r in fresh.reports]
            state = fresh.module.state_dict()
            assert state.keys() == made.module.state_dict().keys()
            assert all(torch.equal(value, state[name]) for name, value in made.module.state_dict().items())


@pytest.mark.slow
def test_a_fresh_process_trains_nothing(filled):
    folder, _, _ = filled
    done = answer(run_grid(folder))
    assert (done["steps"], done["applied"]) == (0, [])
    assert done["reused"] == [len(recipe.steps) for recipe in GRID.grid()]


@pytest.mark.slow
def test_after_a_kill_only_what_was_missing_is_made(task, tmp_path):
    wanted = GRID.prefixes()
    process = run_grid(tmp_path / "grid", 20)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    kept = set(PrefixCache(task, tmp_path / "grid"))
    assert 3 <= len(kept) < len(wanted)
    done = answer(run_grid(tmp_path / "grid"))
    assert collections.Counter(done["applied"]) == dict.fromkeys(wanted.keys() - kept, 1)
    assert done["steps"] == GRID.optimizer_steps(task, [wanted[name] for name in wanted.keys() - kept])


@pytest.mark.slow
def test_two_processes_at_once_share_the_work_without_doing_any_twice(tmp_path):
    both = [run_grid(tmp_path / "grid") for _ in range(2)]
    done = [answer(process) for process in both]
    assert collections.Counter(done[0]["applied"] + done[1]["applied"]) == dict.fromkeys(GRID.prefixes(), 1)


@pytest.mark.parametrize("damage", ["cut", "flip", "delete", "manifest"])
def test_a_damaged_entry_is_thrown_away_and_made_again(task, tmp_path, watch, damage):
    cache = PrefixCache(task, tmp_path / "cache")
    first = CHAIN.apply(task, cache=cache)
    (entry,) = (tmp_path / "cache").glob(f"{CHAIN.recipe_id}-*")
    weights = entry / "weights.safetensors"
    data = weights.read_bytes()
    if damage == "delete":
        weights.unlink()
    elif damage == "manifest":
        (entry / "manifest.json").write_text("{}")
    else:
        weights.write_bytes(data[:100] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    watch.applied.clear()
    again = CHAIN.apply(task, cache=cache)
    assert watch.applied == [CHAIN.recipe_id]  # the pruning before it was not touched
    assert again.reused_steps == 1 and again.quality == first.quality
    assert weights.read_bytes() == data
    assert CHAIN.apply(task, cache=cache).reused_steps == 2


def test_what_was_not_used_for_longest_goes_first(task, tmp_path):
    variant = PRUNE.apply(task)
    cache = PrefixCache(task, tmp_path / "cache", limit_mib=1)
    cache[PRUNE.recipe_id] = variant
    one = cache.size_mib
    cache.clear()
    room = int(1 / one)
    recipes = [wb.Recipe(*PRUNE.steps, seed=number) for number in range(room + 2)]
    variants = {recipe.recipe_id: dataclasses.replace(variant, recipe=recipe) for recipe in recipes}
    names = list(variants)
    for age, name in enumerate(names[:room]):
        cache[name] = variants[name]
        (entry,) = (tmp_path / "cache").glob(f"{name}-*")
        os.utime(entry, (age + 1, age + 1))
    assert cache.get(names[0]) is not None  # used just now
    for name in names[room:]:
        cache[name] = variants[name]
    left = set(cache)
    assert cache.size_mib <= 1.0
    assert names[0] in left and names[1] not in left and names[2] not in left and set(names[room:]) <= left
    fresh = PrefixCache(task, tmp_path / "cache", limit_mib=1)
    assert set(fresh) == left  # nothing was only in memory


def test_what_a_killed_process_left_is_swept_up_after_a_day(task, tmp_path):
    cache = PrefixCache(task, tmp_path / "cache")
    old, young = tmp_path / "cache" / ".entry.abcd", tmp_path / "cache" / ".entry.efgh"
    for path in (old, young):
        path.mkdir(parents=True)
        (path / "weights.safetensors").write_bytes(b"half")
    os.utime(old, (1, 1))
    cache[PRUNE.recipe_id] = PRUNE.apply(task)
    assert not old.exists() and young.exists()


def test_what_cannot_be_written_stays_in_memory(task, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    blocked = PrefixCache(task, tmp_path / "file" / "below")
    nowhere = PrefixCache(task, tmp_path / "none", limit_mib=0)
    for cache in (blocked, nowhere):
        first = CHAIN.apply(task, cache=cache)
        assert CHAIN.apply(task, cache=cache).reused_steps == 2 and first.reused_steps == 0
        assert set(cache) == {PRUNE.recipe_id, CHAIN.recipe_id}
        del cache[CHAIN.recipe_id]
        with pytest.raises(KeyError):
            cache[CHAIN.recipe_id]
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WORKBENCH_CACHE_MIB", "7")
    usual = PrefixCache(task)
    assert (usual.folder, usual.limit_mib) == (tmp_path / "elsewhere" / "prefixes", 7)
    monkeypatch.setenv("WORKBENCH_CACHE_MIB", "much")
    with pytest.raises(ConfigError, match=r"WORKBENCH_CACHE_MIB must be a whole number.*'much'"):
        PrefixCache(task)
    with pytest.raises(ConfigError, match="at least 0"):
        PrefixCache(task, limit_mib=-1)


def test_a_module_that_edits_cannot_make_again_stays_in_memory(task, tmp_path):
    cache = PrefixCache(task, tmp_path / "cache")
    variant = PRUNE.apply(task)
    variant.module.head = nn.utils.parametrizations.weight_norm(variant.module.head)
    cache[PRUNE.recipe_id] = variant
    assert cache[PRUNE.recipe_id] is variant and list((tmp_path / "cache").glob("[!.]*")) == []


def test_quantized_variants_are_not_kept_and_their_beginning_is(task, tmp_path):
    cache = PrefixCache(task, tmp_path / "cache")
    recipe = wb.Recipe(*PRUNE.steps, wb.Quantize())
    assert recipe.apply(task, cache=cache).reused_steps == 0
    assert set(cache) == {PRUNE.recipe_id}
    assert recipe.apply(task, cache=cache).reused_steps == 1


def test_another_task_finds_nothing(task, tmp_path):
    cache = PrefixCache(task, tmp_path / "cache")
    PRUNE.apply(task, cache=cache)
    other = wb.Task(
        name="tiny",
        build=task.build,
        train=(task.train.inputs, task.train.targets),
        evaluation=(task.evaluation.inputs, task.evaluation.targets),
        metric=task.metric,
        loss=task.loss,
        version="2",
    )
    assert PrefixCache(other, tmp_path / "cache").get(PRUNE.recipe_id) is None
    assert PRUNE.apply(other, cache=cache).reused_steps == 0  # a cache of the wrong task gives nothing wrong


@pytest.mark.slow
def test_edited_code_never_meets_what_older_code_trained(task, tmp_path):
    text = (FIXTURES / "tiny.py").read_text()
    specs = []
    for name, changed in (
        ("same", text),
        ("loss", text.replace("loss=F.cross_entropy", "loss=lambda o, t: 2 * F.cross_entropy(o, t)")),
        ("forward", text.replace("x.mean((2, 3))", "x.amax((2, 3))")),
    ):
        (tmp_path / f"{name}.py").write_text(changed)
        specs.append(f"{tmp_path / f'{name}.py'}:tiny")
    digests = [code_digest(wb.load_task(spec)) for spec in specs]
    assert digests[0] == code_digest(task) and len(set(digests)) == 3


def test_functions_of_a_notebook_count_by_what_they_do(task):
    def made(source):
        namespace = {"__name__": "__main__"}
        exec(compile(source, f"cell-{time.monotonic_ns()}", "exec"), namespace)
        return code_digest(
            wb.Task(
                name="t",
                build=task.build,
                train=(task.train.inputs, task.train.targets),
                evaluation=(task.evaluation.inputs, task.evaluation.targets),
                metric=namespace["metric"],
                loss=task.loss,
            )
        )

    first = made("def metric(o, t):\n    return float((o.argmax(1) == t).float().mean())")
    assert first == made("\n\n# moved\ndef metric(o, t):\n    return float((o.argmax(1) == t).float().mean())")
    assert first != made("def metric(o, t):\n    return float((o.argmax(1) == t).float().sum())")
    assert first != made("def metric(o, t):\n    return float((o.argmax(0) == t).float().mean())")


def test_a_process_waits_while_another_makes_the_entry_and_may_give_up(task, tmp_path):
    cache, other = (PrefixCache(task, tmp_path / "cache") for _ in range(2))
    waits, held, order = [], threading.Event(), []

    def hold():
        with other.making(CHAIN.recipe_id, lambda: None):
            held.set()
            while not waits:
                time.sleep(0.01)
            order.append("made")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with cache.making(PRUNE.recipe_id, lambda: pytest.fail("another entry is free")):
        pass
    with cache.making(CHAIN.recipe_id, lambda: waits.append(1)):
        order.append("mine")
    thread.join()
    assert order == ["made", "mine"] and waits

    def give_up(event):
        if "waiting for another process" in event.message:
            raise Cancelled("enough")

    with other.making(PRUNE.recipe_id, lambda: None), pytest.raises(Cancelled):
        PRUNE.apply(task, cache=cache, progress=give_up)


def test_an_entry_that_vanishes_while_it_is_read_is_made_again(task, tmp_path, monkeypatch):
    import workbench.artifact.load as restore

    cache, real = PrefixCache(task, tmp_path / "cache"), restore.load_prefix
    PRUNE.apply(task, cache=cache)

    def removed(folder, task, **options):
        shutil.rmtree(folder)
        return real(folder, task, **options)

    monkeypatch.setattr(restore, "load_prefix", removed)
    assert PRUNE.apply(task, cache=cache).reused_steps == 0
