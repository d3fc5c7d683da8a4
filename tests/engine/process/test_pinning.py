"""Pinned workers: where the system itself says that they may run, before, during and after."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from workbench.core.cpu import Topology
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.process.thread_options import ThreadPins, choose_pins
from workbench.engine.process.threads import on_workers

Engine = OptimizedInferenceEngine
TWO = Topology(((0, 4), (1, 5), (2, 6), (3, 7)), ((0, 1, 4, 5), (2, 3, 6, 7)))
SEVERAL = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two CPUs"
)


@pytest.mark.parametrize(
    ("threads", "cpus", "words"),
    [
        (2, (1,), "pinned 1 worker to CPU 1 of one NUMA node (of 2); CPU 0 is left to the calling thread"),
        (3, (1, 2), "pinned 2 workers to CPUs 1 2; CPU 0 is left"),
        (5, (1, 2, 3, 4), "CPUs 1 2 3 4;"),
        (1, (), "nothing was pinned: one thread has no workers"),
        (9, (), "nothing was pinned: 9 threads are more than the CPUs"),
    ],
)
def test_what_is_pinned_is_said(threads, cpus, words):
    pins = choose_pins(True, threads, TWO)
    assert pins.cpus == cpus
    assert words in pins.notes[0]


def test_nothing_is_touched_unless_asked(monkeypatch):
    assert choose_pins(None, 2, TWO) == choose_pins(False, 2, TWO) == ThreadPins()
    assert InferenceConfig().pin_threads is None
    monkeypatch.setattr("workbench.engine.process.thread_options.cpu_topology", lambda: None)
    assert "does not report which CPUs share a core" in choose_pins(True, 2).notes[0]


def worker_masks() -> list[set[int]]:
    """Return where torch's workers of this thread may run, by their own word."""
    found: list[set[int]] = []
    on_workers(lambda number: found.append(os.sched_getaffinity(0)) if number else None)
    return found


@pytest.mark.cores
@SEVERAL
def test_torch_workers_are_pinned_while_the_engine_is_open_and_the_caller_never_is(images, two_threads):
    everywhere = os.sched_getaffinity(0)
    cpu = choose_pins(True, 2).cpus[0]
    x = images.task.examples(4).numpy()
    options = {"backend": "torch-eager", "batch_size": 4, "threads": 2}
    with Engine.from_variant(images, **options) as plain:
        with Engine.from_variant(images, pin_threads=True, **options) as engine:
            engine.predict(x)
            assert worker_masks() == [{cpu}]
            assert os.sched_getaffinity(0) == everywhere
            assert any(note.startswith("pinned 1 worker") for note in engine.notes)
            plain.predict(x)
            assert worker_masks() == [everywhere]
            engine.predict(x)
            assert worker_masks() == [{cpu}]
        assert worker_masks() == [{cpu}]  # whoever runs next puts it right
        plain.predict(x)
    assert worker_masks() == [everywhere]


@pytest.mark.cores
@SEVERAL
def test_workers_of_another_thread_are_let_go_by_the_last_engine_and_pinned_by_the_next(images, two_threads):
    everywhere = os.sched_getaffinity(0)
    x = images.task.examples(4).numpy()
    options = {"backend": "torch-eager", "batch_size": 4, "threads": 2, "pin_threads": True}
    ready, go, seen = threading.Semaphore(0), threading.Semaphore(0), []
    engines = [Engine.from_variant(images, **options)]

    def work() -> None:
        for step in ("first", "closed", "second"):
            if step != "closed":
                engines[-1].predict(x)
            seen.append(worker_masks())
            ready.release()
            go.acquire(timeout=20)

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.acquire(timeout=20)
    engines[0].dispose()
    go.release()
    assert ready.acquire(timeout=20)
    engines.append(Engine.from_variant(images, **options))
    go.release()
    assert ready.acquire(timeout=20)
    go.release()
    thread.join(20)
    engines[1].dispose()
    cpu = choose_pins(True, 2).cpus[0]
    assert seen == [[{cpu}], [everywhere], [{cpu}]]
    assert worker_masks() == [everywhere]


@pytest.mark.cores
@SEVERAL
def test_onnxruntime_pins_its_own_worker(images):
    def masks() -> dict[str, set[int]]:
        return {task.name: os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()}

    pins = choose_pins(True, 2)
    before = masks()
    with Engine.from_variant(images, backend="onnxruntime", threads=2, pin_threads=True) as engine:
        assert set(pins.notes) <= set(engine.notes)
        end = time.monotonic() + 20
        while {pins.cpus[0]} not in (found := [m for task, m in masks().items() if task not in before]):
            assert time.monotonic() < end, found  # a worker pins itself as soon as it gets to run
            time.sleep(0.01)


def test_openvino_chooses_itself_and_says_so(images):
    with Engine.from_variant(images, backend="openvino", threads=2, pin_threads=True) as engine:
        assert engine.session.model._compiled.get_property("ENABLE_CPU_PINNING") is True
        assert any("cores that OpenVINO chooses" in note for note in engine.notes)
    with Engine.from_variant(images, backend="openvino", threads=2) as engine:
        assert engine.session.model._compiled.get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize("backend", ["torch-eager", "onnxruntime"])
def test_a_platform_that_cannot_pin_says_so_and_runs(images, backend, monkeypatch):
    monkeypatch.setattr("workbench.engine.process.threads.can_reach_workers", lambda: False)
    monkeypatch.setattr(
        "workbench.engine.process.thread_options.cpu_topology", lambda: TWO if backend == "torch-eager" else None
    )
    with Engine.from_variant(images, backend=backend, threads=2, pin_threads=True) as engine:
        assert any(note.startswith("pin_threads=True: nothing was pinned") for note in engine.notes)
        assert engine.predict(images.task.examples(2).numpy()).result.shape == (2, 5)
